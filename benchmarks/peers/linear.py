"""Peers that train a linear model on fixed features of the texts: TF-IDF, or the backbone's sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from hf_selfattn import TextClassificationArguments
from hf_selfattn.data import ClassificationData
from hf_selfattn.files import write_json
from hf_selfattn.hub.results import RESULTS_FILE, environment
from hf_selfattn.metrics.baselines import joined_texts, tfidf_baseline
from hf_selfattn.modeling.configuration_selfattn import backbone_window
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.evaluation import Calibration, fit_calibration, score_splits
from hf_selfattn.tasks.problems import as_references
from hf_selfattn.training.progress import Stopwatch
from hf_selfattn.training.run import claim

Array = NDArray[Any]
Answers = tuple[dict[str, Array], dict[str, float]]
LENGTH, BATCH_SIZE = 256, 32  # tokens that all-MiniLM-L6-v2 reads of a text as sentence-transformers opens it
INVERSE_REGULARISATION = 10.0
LEAST = 1e-12

# The embeddings of evaluated texts, by backbone: other seeds and draws share them in one process.
EMBEDDINGS: dict[str, dict[str, Array]] = {}


def run_peer(
    arguments: TextClassificationArguments, answer: Callable[[Any, ClassificationData], Answers]
) -> dict[str, Any]:
    """Train a peer that needs no `Trainer`, score it as the recipe does, and return its results.

    Args:
        answer: arguments and data to logits (N, C) of each evaluation split, and what training took.
    """
    output_dir = Path(arguments.output_dir)
    if (finished := claim(output_dir, arguments)) is not None:
        return finished
    task = task_of(arguments)
    data = task.with_validation(task.load())
    logits, took = answer(arguments, data)
    calibration = fit_calibration(data, logits["validation"]) if arguments.calibrate else Calibration()
    results = {
        "task": task.pipeline,
        "problem": data.problem,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "seed": arguments.seed,
        "training": took,
        "calibration": calibration.as_dict(),
        "environment": environment(),
        "splits": score_splits(data, logits, calibration, output_dir),
    }
    write_json(output_dir / RESULTS_FILE, results)
    return results


def run_tfidf(arguments: TextClassificationArguments) -> dict[str, Any]:
    """Return the results of TF-IDF with logistic or ridge regression."""
    return run_peer(arguments, answer_tfidf)


def run_embedding(arguments: TextClassificationArguments) -> dict[str, Any]:
    """Return the results of sentence embeddings with logistic or ridge regression."""
    return run_peer(arguments, answer_embedding)


def answer_tfidf(arguments: TextClassificationArguments, data: ClassificationData) -> Answers:
    """Train and answer with the baseline of the recipe; its times hold the answers, too."""
    texts = {name: joined_texts(split) for name, split in data.splits.items()}
    train = texts.pop("train")
    watch = Stopwatch()
    answers = tfidf_baseline(
        data.problem, train, references_of(data), texts, seed=arguments.seed, num_labels=len(data.label_names)
    )
    took = watch.record()
    return {name: as_logits(output, data.problem) for name, output in answers.items()}, took


def answer_embedding(arguments: TextClassificationArguments, data: ClassificationData) -> Answers:
    """Train a linear model on sentence embeddings and answer with it.

    Raises:
        ValueError: for several labels per text.
    """
    if data.problem == "multi_label_classification":
        raise ValueError("The peer embedding-lr answers one label or one number per text.")
    texts = {name: joined_texts(split) for name, split in data.splits.items()}
    watch = Stopwatch()
    features, references = embed(arguments.model, texts.pop("train")), references_of(data)
    if data.problem == "regression":
        model = Ridge(alpha=1.0).fit(features, references)
    else:
        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000).fit(features, references)
    took = watch.record()
    logits = {}
    for name, part in texts.items():
        rows = embeddings(arguments.model, part)
        if data.problem == "regression":
            logits[name] = as_logits(model.predict(rows), data.problem)
        else:
            probabilities = np.zeros((len(rows), len(data.label_names)))
            probabilities[:, model.classes_] = model.predict_proba(rows)
            logits[name] = as_logits(probabilities, data.problem)
    return logits, took


def references_of(data: ClassificationData) -> Array:
    """Return the right answers of train."""
    return as_references(data.splits["train"]["label"][:], data.problem)


def as_logits(output: Array, problem: str) -> Array:
    """Return what the scores of the recipe read: log-probabilities (N, C), or values (N, 1)."""
    return output[:, None] if problem == "regression" else np.log(np.maximum(output, LEAST))


def embeddings(model_name: str, texts: Sequence[str]) -> Array:
    """Return the embeddings (N, D) of texts, those that this process made before as they were."""
    known = EMBEDDINGS.setdefault(model_name, {})
    missing = sorted({text for text in texts if text not in known})
    if missing:
        known.update(zip(missing, embed(model_name, missing), strict=True))
    return np.stack([known[text] for text in texts])


def embed(model_name: str, texts: Sequence[str]) -> Array:
    """Return normalised means (N, D) of the last layer over the tokens (Reimers and Gurevych, 2019).

    Args:
        texts: N texts, of which 256 tokens are read, as all-MiniLM-L6-v2 itself has it.
    """
    model, tokenizer = AutoModel.from_pretrained(model_name).eval(), AutoTokenizer.from_pretrained(model_name)
    length = min(LENGTH, backbone_window(model.config) or LENGTH)
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), BATCH_SIZE):
        part = order[start : start + BATCH_SIZE]
        rows = [texts[number] for number in part]
        batch = tokenizer(rows, truncation=True, max_length=length, padding=True, return_tensors="pt")
        found[part] = mean_pooled(model, batch).numpy()
    return found


@torch.inference_mode()
def mean_pooled(model: Any, batch: Any) -> Tensor:
    """Return the normalised means (B, D) of the real tokens' features."""
    mask_BT1 = batch["attention_mask"][..., None]
    means_BD = (model(**batch).last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)
    return torch.nn.functional.normalize(means_BD, dim=-1)
