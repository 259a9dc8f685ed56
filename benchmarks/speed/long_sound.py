"""Recordings of up to an hour through both pipelines: `python -m benchmarks.speed.long_sound [RECOGNISER]`.

The recordings are prompts of Asterisk, joined. Of each length the memory that a pipeline takes beyond the model and
the time, in a process of its own, one thread. And the words of the longest one: those of the whole against those of
its pieces of at most 25 seconds, cut between prompts and read one by one. The recogniser is the folder of a run
(`runs/speech-asterisk/probe-seed-0`, which the study leaves); the classifier has heads with random weights, which
cost what trained ones do. Written to `benchmarks/results/long_sound.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import pipeline

from hf_selfattn import SelfAttnForAudioClassification, open_sound_extractor
from hf_selfattn.data.sounds import open_sound
from hf_selfattn.hub.results import environment

from ..fetch import fetch
from ..records import RESULTS, RUNS, write_results

RATE, PIECE = 16_000, 25.0  # samples a second, and seconds
MINUTES = (1, 4, 15, 60)
NEAR = 0.2  # seconds that a word may be off
REACH = 2.0  # seconds, beyond which it is another word
KINDS = {"recognition": {"return_timestamps": "word"}, "classification": {}}
Sound = NDArray[np.float32]
Word = tuple[str, float, float]  # text, start and end in seconds


def pieces(minutes: float) -> Iterator[Sound]:
    """Yield prompts, joined to pieces of at most 25 seconds, that are so many minutes together."""
    folder, left = fetch("asterisk"), int(minutes * 60 * RATE)
    sounds = [open_sound(path, RATE) for path in sorted((folder / "sounds").glob("*.wav"))]
    piece: list[Sound] = []
    number = 0
    while left > 0:
        sound = sounds[number % len(sounds)][:left]
        if piece and sum(map(len, piece)) + len(sound) > PIECE * RATE:
            yield np.concatenate(piece)
            piece = []
        piece.append(sound)
        left, number = left - len(sound), number + 1
    yield np.concatenate(piece)


def open_pipeline(kind: str, recogniser: str) -> Any:
    """Return the pipeline of a kind."""
    if kind == "recognition":
        return pipeline("automatic-speech-recognition", model=recogniser)
    backbone = str(fetch("whisper-tiny-en"))
    torch.manual_seed(0)
    model = SelfAttnForAudioClassification.from_backbone(backbone, num_labels=4, fusion_init=0.1)
    return pipeline("audio-classification", model=model, feature_extractor=open_sound_extractor(backbone))


def words_in(answer: dict[str, Any]) -> list[Word]:
    """Return the words of an answer of the recogniser and their times."""
    return [(word["text"], *map(float, word["timestamp"])) for word in answer["chunks"]]


def peak_megabytes() -> float:
    """Return the greatest memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(kind: str, minutes: float, recogniser: str) -> dict[str, Any]:
    """Return memory and time of a recording, and the words of the whole and of its pieces."""
    torch.set_num_threads(1)
    read = open_pipeline(kind, recogniser)
    parts = list(pieces(minutes))
    read(parts[0][:RATE], **KINDS[kind])
    whole, before, started = np.concatenate(parts), peak_megabytes(), time.perf_counter()
    answer = read(whole, **KINDS[kind])
    took = {"seconds": time.perf_counter() - started, "megabytes": peak_megabytes() - before}
    if kind != "recognition" or minutes < max(MINUTES):
        return took
    return {**took, "words": compared(words_in(answer), piecewise(read, parts))}


def piecewise(recognise: Any, parts: Sequence[Sound]) -> list[Word]:
    """Return the words of pieces that are read one by one, with their times in the whole."""
    found, start = [], 0.0
    for part in parts:
        words = words_in(recognise(part, **KINDS["recognition"]))
        found += [(text, start + first, start + last) for text, first, last in words]
        start += len(part) / RATE
    return found


def compared(whole: Sequence[Word], parts: Sequence[Word]) -> dict[str, Any]:
    """Return how many words of the pieces the whole has about there, and how far apart those stand.

    Prompts come again every few minutes, so that an alignment of the words alone would set one against another time.
    """
    by_text = defaultdict(list)
    for text, *times in whole:
        by_text[text].append(times)
    nearest = [min((gap(times, own) for own in by_text[text]), default=REACH) for text, *times in parts]
    off = np.array([seconds for seconds in nearest if seconds < REACH])
    return {
        "whole": len(whole),
        "piecewise": len(parts),
        "shared": len(off),
        "near": int((off <= NEAR).sum()),
        "seconds_off_median": float(np.median(off)),
        "seconds_off_greatest": float(off.max()),
    }


def gap(times: Sequence[float], others: Sequence[float]) -> float:
    """Return how many seconds start and end of a word are apart at most."""
    return max(abs(one - other) for one, other in zip(times, others, strict=True))


def in_own_process(*words: str) -> dict[str, Any]:
    """Return what this program prints with such words."""
    command = [sys.executable, "-m", "benchmarks.speed.long_sound", "--one", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        kind, minutes, recogniser = sys.argv[2:]
        print(json.dumps(measure(kind, float(minutes), recogniser)))
        return
    recogniser = sys.argv[1] if sys.argv[1:] else str(RUNS / "speech-asterisk" / "probe-seed-0")
    record: dict[str, Any] = {"command": "python -m benchmarks.speed.long_sound", "environment": environment()}
    for kind in KINDS:
        for minutes in MINUTES:
            record.setdefault(kind, {})[str(minutes)] = found = in_own_process(kind, str(minutes), recogniser)
            write_results(RESULTS / "long_sound.json", record)
            print(kind, minutes, found, flush=True)


if __name__ == "__main__":
    main()
