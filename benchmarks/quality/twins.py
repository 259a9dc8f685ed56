"""Does grouped attention find what stands far away? `python -m benchmarks.quality.twins`.

One layer on made-up features, no backbone (`twins_task.py`). In "twins" a name, new in every document, occurs twice
and its class shows once; in "elsewhere" the class stands at a token that a learned rotation leads to. 32 questions of
8 classes in a document, whose answers stand half of a document away. The layer is trained on new documents in every
step, first short then longer ones, and tested on documents of 4,096 tokens. All forms have the same steps, learning
rate and documents; "full" is the grouped layer with one block, which is full attention with the same weights. Accuracy
of the questions, with 95 % intervals over the test documents. Each result is written to
`benchmarks/results/twins.json` as it comes; what stands there is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table
from hf_selfattn.metrics.intervals import Array, bca_interval, replicate
from hf_selfattn.modeling.attention_selfattn import HeadMasks
from hf_selfattn.training.first_pass import fit_codebooks

from ..records import RESULTS, read_results, write_results
from .twins_task import PAIRS, TASKS, Tagger, draw_documents, pairs_in_one_block, relation

TARGET = RESULTS / "twins.json"
SEEDS = (0, 1, 2, 3, 4)  # forms that were not run again have the first three
BLOCK_SIZE, WINDOW = 64, 128
TEST_SEED = 1000
Inputs = tuple[torch.Tensor, HeadMasks, bool]


@dataclass(frozen=True)
class Settings:
    """What all forms have in common; `stages` are tokens, documents of a step, and steps."""

    stages: tuple[tuple[int, int, int], ...] = ((256, 4, 300), (2048, 2, 80))
    test_tokens: int = 4096
    test_documents: int = 32
    learning_rate: float = 1e-2
    warmup: int = 20


@dataclass(frozen=True)
class Form:
    """A form of the layer: fields of its configuration, and the keys of a token in a head where not as `num_keys`."""

    options: dict[str, Any] = field(default_factory=dict)
    keys: Callable[[int], int] | None = None
    block_size: int = BLOCK_SIZE
    one_block: bool = False
    random_prototypes: bool = False
    fixed_metric: bool = False
    hidden: str = ""  # "near" or "far"

    def num_keys(self, num_tokens: int) -> int:
        """Return the keys of a token in a head: those of its block, and the means."""
        return self.keys(num_tokens) if self.keys else self.block_size + num_tokens // self.block_size


FORMS = {
    "full": Form(keys=lambda num_tokens: num_tokens, one_block=True),
    "grouped": Form(),
    "blocks of 128": Form(block_size=128),
    "blocks of 256": Form(block_size=256),
    "random prototypes": Form(random_prototypes=True),
    "fixed metric": Form(fixed_metric=True),
    "own block only": Form(keys=lambda num_tokens: BLOCK_SIZE, hidden="far"),
    "means only": Form(keys=lambda num_tokens: num_tokens // BLOCK_SIZE, hidden="near"),
    "window": Form({"num_self_attention_heads": 4, "num_grouped_attention_heads": 0}, lambda num_tokens: WINDOW),
}


def hide_field(hidden: str) -> Callable[[nn.Module, Inputs], Inputs]:
    """Return a hook that masks the near field, and shows the own block's mean in its place, or the far field."""

    def hook(module: nn.Module, inputs: Inputs) -> Inputs:
        features, masks, output_attentions = inputs
        bias = masks.block_bias.clone()
        near, far = bias.split([BLOCK_SIZE, bias.shape[-1] - BLOCK_SIZE], dim=-1)
        (near if hidden == "near" else far).fill_(torch.finfo(bias.dtype).min)
        if hidden == "near":
            far.diagonal(dim1=-2, dim2=-1).fill_(float(np.log(BLOCK_SIZE)))  # every document fills its blocks
        return features, replace(masks, block_bias=bias), output_attentions

    return hook


def build(form: Form, task: str, seed: int) -> Tagger:
    """Return a tagger with fresh weights and fitted prototypes."""
    torch.manual_seed(seed)
    tagger = Tagger(**{"num_self_attention_heads": 0, "attention_window": WINDOW, **form.options})
    if (head := tagger.grouped) is None:
        return tagger
    if not form.random_prototypes:
        documents = draw_documents(task, 4, 1024, relation(seed), torch.Generator().manual_seed(seed))
        rows = [{"features": features} for features in documents.features]
        fit_codebooks(tagger, rows, lambda batch: {"features": torch.stack([row["features"] for row in batch])}, seed)
    if form.fixed_metric:
        head.metric.weight.requires_grad_(False)
    if form.hidden:
        head.register_forward_pre_hook(hide_field(form.hidden))
    return tagger


def train(tagger: Tagger, form: Form, task: str, seed: int, settings: Settings) -> None:
    """Train a tagger, the learning rate rising over the first steps and falling to 0."""
    random, rotation = torch.Generator().manual_seed(seed), relation(seed)
    weights = [weight for weight in tagger.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate)
    total = sum(steps for *_, steps in settings.stages)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / settings.warmup, 1 - step / total)
    )
    tagger.train()
    for num_tokens, num_rows, steps in settings.stages:
        tagger.set_block_size(num_tokens if form.one_block else form.block_size)
        for _ in range(steps):
            documents = draw_documents(task, num_rows, num_tokens, rotation, random)
            logits = tagger(documents.features)
            loss = F.cross_entropy(logits.flatten(0, 1), documents.labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()


def run(name: str, task: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Train one form on one task and return its result."""
    form, started = FORMS[name], time.process_time()
    tagger = build(form, task, seed)
    train(tagger, form, task, seed, settings)
    seconds = time.process_time() - started
    tagger.eval()
    num_tokens = settings.test_tokens
    tagger.set_block_size(num_tokens if form.one_block else form.block_size)
    random = torch.Generator().manual_seed(TEST_SEED + seed)
    hits = []
    for _ in range(settings.test_documents):
        documents = draw_documents(task, 1, num_tokens, relation(seed), random)
        with torch.no_grad():
            hits.append(int((tagger(documents.features).argmax(dim=-1) == documents.labels).sum()))
    has_blocks = tagger.grouped is not None and not form.one_block
    return {
        "task": task,
        "form": name,
        "seed": seed,
        "accuracy": score(hits, hits)["accuracy"],
        "share_of_keys": form.num_keys(num_tokens) / num_tokens,
        "pairs_together": pairs_in_one_block(tagger, documents) if has_blocks else None,
        "training_seconds": round(seconds, 1),
        "hits": " ".join(map(str, hits)),
    }


def score(hits: list[int], hits_of_full: list[int]) -> dict[str, dict[str, float]]:
    """Return accuracy and share of full attention's, with intervals of the bootstrap over documents.

    Args:
        hits_of_full: those of full attention in the same documents.
    """
    own, full = np.array(hits, dtype=float), np.array(hits_of_full, dtype=float)

    def statistic(weights: Array) -> dict[str, Array]:
        right = own @ weights
        return {"accuracy": right / (PAIRS * weights.sum(axis=0)), "share_of_full": right / (full @ weights)}

    found = replicate(statistic, len(own), resamples=2000, seed=0)
    scores = {}
    for metric, value in found.values.items():
        low, high = bca_interval(value, found.resampled[metric], found.jackknife[metric], 0.95)
        scores[metric] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return scores


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of each form over all seeds that it and full attention have."""
    hits = {(row["task"], row["form"], row["seed"]): [int(hit) for hit in row["hits"].split()] for row in rows}
    lines = []
    for task, form in dict.fromkeys((row["task"], row["form"]) for row in rows):
        seeds = [seed for *name, seed in hits if name == [task, form] and (task, "full", seed) in hits]
        if seeds:
            own, full = (sum((hits[task, each, seed] for seed in seeds), []) for each in (form, "full"))
            lines.append({"task": task, "form": form, "seeds": seeds, **score(own, full)})
    return lines


def results(target: Path, settings: Settings, forms: list[str], seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Run what the results file lacks, write each result as it comes, and return the summary.

    Raises:
        ValueError: if the file is of other settings.
    """
    mine = {name: list(map(list, x)) if name == "stages" else x for name, x in vars(settings).items()}
    before = read_results(target) if target.is_file() else {"settings": mine, "rows": []}
    if before["settings"] != mine:
        raise ValueError(f"{target} is of the settings {before['settings']}, not {mine}. Delete it to begin anew.")
    rows = before["rows"]
    done = {(row["task"], row["form"], row["seed"]) for row in rows}
    record = {"command": "python -m benchmarks.quality.twins", "settings": mine, "environment": environment()}
    for name, task, seed in product(forms, TASKS, seeds):
        if (task, name, seed) in done:
            continue
        rows.append(run(name, task, seed, settings))
        write_results(target, {**record, "summary": summary(rows), "rows": rows})
        print(f"{task}, {name}, seed {seed}: {rows[-1]['accuracy']['value']:.3f}", flush=True)
    return summary(rows)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    lines = results(TARGET, Settings(), list(FORMS), SEEDS)
    cells = [["task", "form", "accuracy", "share of full"]]
    for line in lines:
        both = (line[name] for name in ("accuracy", "share_of_full"))
        cells.append([line["task"], line["form"], *("{value:.3f} [{low:.3f}, {high:.3f}]".format(**x) for x in both)])
    print(table(cells))


if __name__ == "__main__":
    main()
