"""The peer for few rows: SetFit (Tunstall et al., 2022), contrastive tuning of the backbone, then logistic regression.

It needs the packages setfit and sentence-transformers, which no extra of this package installs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from hf_selfattn import TextClassificationArguments
from hf_selfattn.data import ClassificationData
from hf_selfattn.metrics.baselines import joined_texts
from hf_selfattn.training.progress import Stopwatch

from .linear import LENGTH, Answers, as_logits, references_of, run_peer

# R of the paper: so many positive and so many negative pairs of each row, read once, or until the last step.
NUM_ITERATIONS, BATCH_SIZE, LEARNING_RATE = 20, 16, 2e-5
MOST_STEPS = 100


def run_setfit(arguments: TextClassificationArguments) -> dict[str, Any]:
    """Return the results of SetFit."""
    return run_peer(arguments, answer_setfit)


def answer_setfit(arguments: TextClassificationArguments, data: ClassificationData) -> Answers:
    """Train SetFit with the settings of its paper and answer with it.

    Raises:
        ValueError: if the packages are missing, or for other data.
    """
    try:
        from sentence_transformers import SentenceTransformer, models
        from setfit import SetFitModel, Trainer, TrainingArguments
    except ImportError as error:
        raise ValueError(
            f"The peer setfit needs packages: pip install setfit sentence-transformers ({error})."
        ) from error
    if data.problem != "single_label_classification":
        raise ValueError(f"The peer setfit answers one label per text, not {data.problem}.")
    transformer = models.Transformer(arguments.model, max_seq_length=LENGTH)
    pooling = models.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    body = SentenceTransformer(modules=[transformer, pooling, models.Normalize()])
    model = SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=1000))
    texts = {name: joined_texts(split) for name, split in data.splits.items()}
    watch = Stopwatch()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=arguments.output_dir,
            batch_size=BATCH_SIZE,
            num_iterations=NUM_ITERATIONS,
            max_steps=min(MOST_STEPS, 2 * NUM_ITERATIONS * len(data.splits["train"]) // BATCH_SIZE),
            body_learning_rate=LEARNING_RATE,
            seed=arguments.seed,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"text": texts.pop("train"), "label": references_of(data)}),
    )
    trainer.train()
    took = watch.record()
    logits = {}
    for name, part in texts.items():
        probabilities = np.zeros((len(part), len(data.label_names)))
        probabilities[:, model.model_head.classes_] = model.predict_proba(part, as_numpy=True)
        logits[name] = as_logits(probabilities, data.problem)
    return logits, took
