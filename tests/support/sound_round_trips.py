"""Both ends of a round trip of models of sound: `python sound_round_trips.py author|reader FOLDER [remote]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from field_round_trips import TUNINGS, parse_files_once, pull, push, repository, train_and_push
from huggingface_hub import HfApi
from transformers import ASTFeatureExtractor, AutoModel, Wav2Vec2CTCTokenizer

FAMILIES = ("wav2vec2", "hubert", "wavlm", "sew", "ast", "whisper")
NAMES = {0: "bell", 1: "drum", 2: "horn"}
TASKS = {"sounds": "audio-classification", "speech": "automatic-speech-recognition"}


def sound_cases() -> Iterator[tuple[str, str, str, str]]:
    """Yield repository, family, kind of model and tuning of every checkpoint."""
    for family in FAMILIES:
        for kind in TASKS:
            for tuning in TUNINGS:
                yield repository(family, kind, tuning), family, kind, tuning


def push_backbones(api: HfApi, folder: Path) -> None:
    """Push a tiny backbone of each family, of Whisper with its decoder."""
    from tiny_sounds import SOUND_BACKBONES

    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(deepcopy(SOUND_BACKBONES[family])).save_pretrained(folder / family)
        if family == "ast":
            ASTFeatureExtractor(num_mel_bins=16, max_length=100).save_pretrained(folder / family)
        push(api, folder / family, repository(family))


def author(folder: Path) -> None:
    """Push backbones; train a model of each kind on each of them in each way for three steps, save and push it."""
    from tiny_sounds import HEADS, VOCABULARY, tiny_extractor, tiny_sound

    from hf_selfattn import SelfAttnForAudioClassification, SelfAttnForCTC

    api, expected = HfApi(), {}
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None)
    batch = {"input_values": torch.stack([tiny_sound(20_001, seed) for seed in range(3)])}
    push_backbones(api, folder)
    for repo, family, kind, tuning in sound_cases():
        torch.manual_seed(1)
        options: dict[str, Any] = {"num_mixed_layers": 2, "subsequence_length": 15_840, **HEADS}
        place, processors = repository(family), [tiny_extractor()]
        if kind == "sounds":
            model, labels = SelfAttnForAudioClassification.from_backbone(place, id2label=NAMES, **options), [0, 1, 2]
        else:
            options |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
            model, labels = SelfAttnForCTC.from_backbone(place, **options), [[2, 3], [4, 5], [1, -100]]
            processors.append(tokenizer)
        expected[repo] = train_and_push(
            api, folder / repo, repo, model, tuning, batch, torch.tensor(labels), processors
        )
    torch.save({"batch": batch, "logits": expected}, folder / "expected.pt")


def reader(folder: Path, remote: bool) -> None:
    """Pull every checkpoint into a pipeline and compare its answers."""
    if remote:
        parse_files_once()
    else:
        import hf_selfattn  # noqa: F401
    expected = torch.load(folder / "expected.pt")
    batch = expected["batch"]
    sound = batch["input_values"][0].numpy()
    for repo, _, kind, _ in sound_cases():
        pipe = pull(TASKS[kind], repo, remote, batch, expected["logits"][repo])
        values = pipe.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            logits = pipe.model(**values).logits[0]
        answer = pipe(sound)
        if kind == "sounds":
            scores = {found["label"]: found["score"] for found in answer}
            for number, score in enumerate(logits.softmax(-1).tolist()):
                assert abs(scores[NAMES[number]] - score) < 1e-5, repo
        else:
            assert answer["text"] == pipe.tokenizer.decode(logits.argmax(-1)), repo


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, place, *rest = sys.argv[1:]
    author(Path(place)) if side == "author" else reader(Path(place), remote=rest == ["remote"])
