"""Heads on features of a frozen image or sound backbone: ours, a linear probe, neighbours, attention pooling (EP).

All read the features that a probe of ours keeps, those of the test split, too, and choose their settings on the
validation split: the linear probe its regularisation, the neighbours their number and how they vote, EP its rate and,
as ours does, its best epoch. Ours is trained as the recipe trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_linear_schedule_with_warmup, set_seed

from hf_selfattn.files import write_json
from hf_selfattn.hub.results import RESULTS_FILE, environment
from hf_selfattn.machine import has_bf16
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.evaluation import Calibration, fit_calibration, logits_of, score_splits
from hf_selfattn.tasks.media.classification import MediaClassificationArguments
from hf_selfattn.tasks.problems import as_references
from hf_selfattn.training.feature_cache import CachedFeatures
from hf_selfattn.training.phases import build_model, fit_phases, prepare
from hf_selfattn.training.progress import Stopwatch
from hf_selfattn.training.run import claim
from hf_selfattn.training.setup import Prepared, cached_features

Array = NDArray[Any]
LEAST = 1e-12
STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 3))  # inverse regularisations of the linear probe
NEIGHBOURS, SHARPNESS = (1, 3, 5, 10, 20, 40), (0.0, 10.0, 30.0)  # and how much the nearer ones count for more
QUERIES, BATCH_SIZE, EPOCHS, RATES = 16, 32, 10, (3e-4, 1e-3)  # of EP


@dataclass(frozen=True)
class Kept:
    """The features of a frozen backbone, and the labels, of every split."""

    cache: CachedFeatures
    labels: dict[str, Array]
    num_labels: int
    seed: int

    @property
    def evaluated(self) -> list[str]:
        """The splits that are answered."""
        return [name for name in self.labels if name != "train"]

    def maps(self, name: str) -> Tensor:
        """Return (N, T, D) the last layer's features of a split, in half precision."""
        return torch.stack([row["features"][:, -1].half() for row in self.cache.rows[name]])


Answers = dict[str, Array]  # probabilities (N, C) by split
Answer = Callable[[Kept], tuple[Answers, dict[str, Any]]]  # features to answers, and what was chosen or learned


def run_on_features(arguments: MediaClassificationArguments, answer: Answer | None = None) -> dict[str, Any]:
    """Answer from kept features, score the answers as the recipe does, and return the results.

    Args:
        answer: of a peer; ours is trained where there is none.
    """
    output_dir = Path(arguments.output_dir)
    if (finished := claim(output_dir, arguments)) is not None:
        return finished
    task = task_of(arguments)
    data = task.with_validation(task.load())
    prepared = prepare(task, data)
    cache = cached_features(arguments, prepared.encoded, task.inputs(prepared.processor), list(prepared.encoded))
    if cache is None:
        raise ValueError(
            "The heads are compared on kept features. Set tuning=probe, and leave feature_cache=false out."
        )
    kept_in = cache.prepare(build_model(task, prepared, None), "cpu")
    labels = {name: as_references(split["label"][:], data.problem) for name, split in data.splits.items()}
    kept = Kept(cache, labels, len(data.label_names), arguments.seed)
    watch = Stopwatch()
    answers, found = answer(kept) if answer else answer_ours(kept, task, prepared, output_dir)
    logits = {name: np.log(np.maximum(output, LEAST)) for name, output in answers.items()}
    calibration = fit_calibration(data, logits["validation"]) if arguments.calibrate else Calibration()
    results = {
        "task": task.pipeline,
        "problem": data.problem,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "seed": arguments.seed,
        "training": {**watch.record(), "feature_cache": kept_in},
        **found,
        "calibration": calibration.as_dict(),
        "environment": environment(),
        "splits": score_splits(data, logits, calibration, output_dir),
    }
    write_json(output_dir / RESULTS_FILE, results)
    return results


def answer_ours(kept: Kept, task: Any, prepared: Prepared, output_dir: Path) -> tuple[Answers, dict[str, Any]]:
    """Train our heads as the recipe does, and answer with the best checkpoint."""
    fitted = fit_phases(task, prepared, output_dir)
    answers = {
        name: softmax(logits_of(fitted.trainer.predict(kept.cache.rows[name]).predictions), axis=-1)
        for name in kept.evaluated
    }
    return answers, {"training": fitted.record, "parameters": fitted.trainer.parameters}


def run_linear_probe(arguments: MediaClassificationArguments) -> dict[str, Any]:
    """Return the results of logistic regression on the mean of the map."""
    return run_on_features(arguments, answer_linear)


def run_neighbours(arguments: MediaClassificationArguments) -> dict[str, Any]:
    """Return the results of the nearest neighbours by the cosine of the means of the maps."""
    return run_on_features(arguments, answer_neighbours)


def run_attention_pool(arguments: MediaClassificationArguments) -> dict[str, Any]:
    """Return the results of efficient probing (Psomas et al., 2026)."""
    return run_on_features(arguments, answer_attention_pool)


def best_of(candidates: Iterable[tuple[dict[str, Any], Answers]], truth: Array) -> Any:
    """Return the answers that are right most often on validation, of equal ones the most probable, and their settings.

    Args:
        candidates: settings, and probabilities by split.
    """

    def goodness(answers: Answers) -> tuple[float, float]:
        found = answers["validation"]
        likelihood = np.log(np.maximum(found[np.arange(len(truth)), truth], LEAST)).mean()
        return float((found.argmax(axis=1) == truth).mean()), float(likelihood)

    chosen, answers = max(candidates, key=lambda candidate: goodness(candidate[1]))
    return answers, {"chosen": {**chosen, "validation_accuracy": goodness(answers)[0]}}


def answer_linear(kept: Kept) -> tuple[Answers, dict[str, Any]]:
    """Answer from the means of the features."""
    return answer_statistics(kept, kept.cache.means())


def answer_statistics(kept: Kept, rows: dict[str, Array]) -> tuple[Answers, dict[str, Any]]:
    """Train logistic regressions on standardised rows (N, D) and answer with the best."""
    scaler = StandardScaler().fit(rows["train"])
    scaled = {name: scaler.transform(values) for name, values in rows.items()}

    def candidates() -> Iterator[tuple[dict[str, Any], Answers]]:
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=1000).fit(scaled["train"], kept.labels["train"])
            yield {"C": strength}, {name: spread(model, scaled[name], kept) for name in kept.evaluated}

    return best_of(candidates(), kept.labels["validation"])


def spread(model: LogisticRegression, rows: Array, kept: Kept) -> Array:
    """Return probabilities (N, C) of all classes, of which train may lack some."""
    probabilities = np.zeros((len(rows), kept.num_labels))
    probabilities[:, model.classes_] = model.predict_proba(rows)
    return probabilities


def answer_neighbours(kept: Kept) -> tuple[Answers, dict[str, Any]]:
    """Answer with the votes of the nearest training images."""
    means = kept.cache.means()
    centre = means["train"].mean(axis=0)
    units = {name: unit_length(values - centre) for name, values in means.items()}
    search = NearestNeighbors(n_neighbors=min(max(NEIGHBOURS), len(units["train"]))).fit(units["train"])
    found = {name: search.kneighbors(units[name]) for name in kept.evaluated}
    votes = np.eye(kept.num_labels)[kept.labels["train"]]

    def candidates() -> Iterator[tuple[dict[str, Any], Answers]]:
        for count, sharpness in product(NEIGHBOURS, SHARPNESS):
            answers = {}
            for name, (distances, rows) in found.items():
                weights = np.exp(-sharpness * distances[:, :count] ** 2 / 2)
                total = (weights[..., None] * votes[rows[:, :count]]).sum(axis=1)
                answers[name] = total / total.sum(axis=1, keepdims=True)
            yield {"neighbours": count, "sharpness": sharpness}, answers

    return best_of(candidates(), kept.labels["validation"])


def unit_length(rows: Array) -> Array:
    """Return rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class AttentionPool(nn.Module):
    """Efficient probing: learned queries attend to the features, each pools its share of the channels of the values.

    Shape: (B, N, D) -> (B, C).
    """

    def __init__(self, width: int, num_labels: int, num_queries: int = QUERIES):
        super().__init__()
        self.query = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.value = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, features_BND: Tensor) -> Tensor:
        attention_BNQ = F.softmax(F.linear(features_BND, self.query) * features_BND.shape[-1] ** -0.5, dim=1)
        values_BNQE = self.value(features_BND).unflatten(-1, (len(self.query), -1))
        pooled_BD = torch.einsum("bnq,bnqe->bqe", attention_BNQ, values_BNQE).flatten(1)
        return self.classifier(self.norm(pooled_BD.float()))


def answer_attention_pool(kept: Kept) -> tuple[Answers, dict[str, Any]]:
    """Train attention pooling at several rates and answer with the best epoch of all."""
    maps = {name: kept.maps(name) for name in kept.labels}
    trained = (trained_pools(maps, kept, rate) for rate in RATES)
    return best_of(chain.from_iterable(trained), kept.labels["validation"])


def trained_pools(maps: dict[str, Tensor], kept: Kept, rate: float) -> Iterator[tuple[dict[str, Any], Answers]]:
    """Train attention pooling and yield, after each epoch, its settings and answers.

    Args:
        maps: (N, T, D) the features of each split.
    """
    set_seed(kept.seed)
    labels, train = torch.from_numpy(kept.labels["train"]), maps["train"]
    scale = train[:256].float().square().mean().sqrt()
    model = AttentionPool(train.shape[-1], kept.num_labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    batches = len(labels) // BATCH_SIZE
    schedule = get_linear_schedule_with_warmup(optimizer, EPOCHS * batches // 10, EPOCHS * batches)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for rows in torch.randperm(len(labels))[: batches * BATCH_SIZE].view(batches, -1):
            loss = F.cross_entropy(pooled(model, train[rows], scale), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            answers = {
                name: torch.cat([pooled(model, part, scale) for part in maps[name].split(BATCH_SIZE)])
                .softmax(-1)
                .numpy()
                for name in kept.evaluated
            }
        yield {"learning_rate": rate, "epoch": epoch}, answers


def pooled(model: AttentionPool, features_BND: Tensor, scale: Tensor) -> Tensor:
    """Return the logits (B, C) of features, computed as the recipe does where it trains."""
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
        return model(features_BND.float() / scale).float()
