"""Share of the decoding in the inference time of a tagger: `python benchmarks/decoding.py`.

MiniLM with heads and the nine labels of CoNLL-2003 answers the validation split, one thread, sorted by length. Each
decoding answers each batch in turn, in one process. Times are CPU times, of `decode_words` and of the whole forward
pass that holds it, summed over the batches, each the least of its repeats. The weights are those of `--model`, a run
of `recipes/ner.py`, or fresh ones: an untrained tagger breaks nearly every row, so nothing can be skipped.
Written to `benchmarks/results/decoding.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from hf_selfattn import SelfAttnForTokenClassification
from hf_selfattn.data import load_splits, prepare_tagging
from hf_selfattn.files import write_json
from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table
from hf_selfattn.modeling import modeling_selfattn
from hf_selfattn.modeling.crf_selfattn import LinearChainCRF
from hf_selfattn.tasks.tag_encoding import encode_split

HERE = Path(__file__).parent
DATA = HERE.parent / ".data"
DECODINGS = ("argmax", "viterbi", "crf")
BATCHES = {"sentence": {1: 80, 32: 3}, "document": {1: 8}}  # how many of each size, evenly from short to long
REPEATS = 8


class Stopwatch:
    """`decode_words` that adds up its own CPU seconds."""

    def __init__(self) -> None:
        self.decode, self.seconds = modeling_selfattn.decode_words, 0.0

    def __call__(self, *arguments: Any) -> torch.Tensor:
        started = time.process_time()
        answer = self.decode(*arguments)
        self.seconds += time.process_time() - started
        return answer


def batches(model: str, context: str, size: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of the validation split, evenly from its shortest to its longest rows."""
    data = prepare_tagging(load_splits(train=DATA / "conll2003" / "validation.txt"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = int(1e30)
    rows = encode_split(data.splits["train"], tokenizer, data.label_names, whole_documents=context == "document")
    order = np.argsort(rows["length"][:], kind="stable")
    starts = np.linspace(0, len(order) - size, min(count, len(order) // size)).astype(int)
    ids = rows["input_ids"][:]
    return [
        dict(tokenizer.pad({"input_ids": [ids[i] for i in order[start : start + size]]}, return_tensors="pt"))
        for start in starts
    ]


def open_model(path: str | None) -> tuple[Any, str]:
    """Return a tagger with a CRF beside its head, and what its weights are."""
    names = prepare_tagging(load_splits(train=DATA / "conll2003" / "validation.txt")).label_names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    if path:
        return SelfAttnForTokenClassification.from_pretrained(path).eval(), "trained"
    torch.manual_seed(0)
    return SelfAttnForTokenClassification.from_backbone(str(DATA / "minilm"), **labels), "fresh"


def measure(model: Any, crf: LinearChainCRF, rows: list[dict[str, torch.Tensor]]) -> dict[str, list[float]]:
    """Return for each decoding the seconds of decoding and of the whole forward pass, over all batches."""
    watch = Stopwatch()
    modeling_selfattn.decode_words = watch
    totals = {name: [0.0, 0.0] for name in DECODINGS}
    with torch.inference_mode():
        for batch in rows:
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in DECODINGS}
            for _ in range(REPEATS):
                for name in DECODINGS:
                    model.config.decoding, model.crf = name, crf if name == "crf" else None
                    watch.seconds, started = 0.0, time.process_time()
                    model(**batch)
                    times[name].append((watch.seconds, time.process_time() - started))
            for name, pairs in times.items():
                totals[name][0] += min(decoding for decoding, _ in pairs)
                totals[name][1] += min(whole for _, whole in pairs)
    modeling_selfattn.decode_words = watch.decode
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a finished run; fresh weights without it")
    path = parser.parse_args().model
    torch.set_num_threads(1)
    model, weights = open_model(path)
    crf = model.crf or LinearChainCRF(model.label_names)
    if model.crf is None:
        crf.reset(torch.nn.init.zeros_, lambda to, value: to.copy_(value))
    rows = []
    for context, counts in BATCHES.items():
        for size, count in counts.items():
            given = batches(path or str(DATA / "minilm"), context, size, count)
            tokens = sum(int(batch["attention_mask"].sum()) for batch in given)
            for name, (decoding, whole) in measure(model, crf, given).items():
                rows.append(
                    {
                        "context": context,
                        "batch_size": size,
                        "batches": len(given),
                        "tokens": tokens,
                        "decoding": name,
                        "decoding_seconds": decoding,
                        "forward_seconds": whole,
                        "share": decoding / whole,
                    }
                )
    command = "python benchmarks/decoding.py" + (" --model RUN" if path else "")
    record = {
        "command": command,
        "weights": weights,
        "seed": 0,
        "repeats": REPEATS,
        "environment": environment(),
        "rows": rows,
    }
    write_json(HERE / "results" / "decoding.json", record)
    cells = [
        [r["context"], str(r["batch_size"]), r["decoding"], f"{r['forward_seconds']:.2f}", f"{100 * r['share']:.1f} %"]
        for r in rows
    ]
    print(table([["context", "rows", "decoding", "seconds", "share of decoding"], *cells]))


if __name__ == "__main__":
    main()
