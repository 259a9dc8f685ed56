"""Named entities in words, as a task of the training: sentences or whole documents in, tags of each word out.

What the model tags is the tokenizer's words (a token and the `##` pieces after it), because that is all that a
pipeline knows of a plain text. A word of the data that holds several of them (`U.N.`, `well-known`) is taught as one
entity that goes on, and is answered by the first of them that is in an entity. So the pipeline and the recipe read one
and the same answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import (
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ..adapters import tune
from ..arguments import NerArguments
from ..data import TaggingData, by_document, check_tagging, fingerprint, prepare_tagging
from ..data.formats import ORIGIN
from ..files import write_text
from ..metrics import entity_strings, error_analysis, score_spans
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification
from .preparation import backbone_settings, head_settings, raw_splits, report_on_data, say, seed_of
from .tag_encoding import encode_split, rows_of, tags_of_words
from .task import Array, Task

METRICS = ["precision", "recall", "f1", "token_accuracy"]


def column_options(arguments: NerArguments) -> dict[str, Any]:
    """Return what the user said of the columns and tags."""
    names = ("token_column", "tag_column", "text_column", "span_column", "document_column", "scheme", "tag_names")
    return {name: getattr(arguments, name) for name in (*names, "entity_types")}


def load_tags(arguments: NerArguments) -> TaggingData:
    """Load the splits that the arguments name and check them."""
    with PartialState().local_main_process_first():
        return prepare_tagging(
            raw_splits(arguments),
            on_broken_tag=arguments.on_broken_tag,
            on_cut_word=arguments.on_cut_word,
            on_bad_row=arguments.on_bad_row,
            **column_options(arguments),
        )


def with_validation_documents(arguments: NerArguments, data: TaggingData) -> TaggingData:
    """Return the data with a validation split, made of documents of train where there is none.

    Raises:
        ValueError: if train has one document only.
    """
    if "validation" in data.splits:
        return data
    documents = by_document(data.splits["train"])
    if len(documents) < 2:
        raise ValueError("train is one document, so no validation split can be made of it. Give validation=FILE.")
    order = np.random.default_rng(seed_of(arguments)).permutation(len(documents))
    count = min(max(1, round(arguments.validation_fraction * len(documents))), len(documents) - 1)
    train = data.splits["train"]
    parts = {"train": order[count:], "validation": order[:count]}
    made = {name: train.select(sorted(row for i in part for row in documents[i])) for name, part in parts.items()}
    note = f"{count} of {len(documents)} documents of train are the validation split."
    say(note)
    return TaggingData(DatasetDict({**data.splits, **made}), data.label_names, data.entity_types, [*data.notes, note])


def report_on_tags(arguments: NerArguments) -> dict[str, Any]:
    """Print the report on the data, bad rows and all, and return it."""
    return report_on_data(arguments, check_tagging, column_options)


def tokenise_tags(
    arguments: NerArguments, data: TaggingData, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Dataset]:
    """Return the tokenised splits, a row for each sentence or document."""
    whole = arguments.context == "document"
    return {
        name: encode_split(split, tokenizer, data.label_names, whole_documents=whole)
        for name, split in data.splits.items()
    }


def build_tagger(arguments: NerArguments, data: TaggingData, backbone_config: PreTrainedConfig) -> Any:
    """Return the model that trains: fresh heads on the backbone, with adapters where they are asked for."""
    labels = {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: number for number, name in enumerate(data.label_names)},
    }
    model = SelfAttnForTokenClassification.from_backbone(
        arguments.model,
        **backbone_settings(arguments, backbone_config),
        **head_settings(arguments, backbone_config),
        **labels,
    )
    return tune(model, arguments.tuning, "TOKEN_CLS", **arguments.lora)


def label_counts(data: TaggingData) -> dict[str, int]:
    """Return how many entities of each type stand in train."""
    beginnings = Counter(data.label_names[tag] for tags in data.splits["train"]["tags"][:] for tag in tags)
    return {kind: beginnings[f"B-{kind}"] for kind in data.entity_types}


def metric_names(data: TaggingData) -> list[str]:
    """Return the metrics of the validation split."""
    return METRICS


def selection_metric(data: TaggingData) -> str:
    """Return the metric that picks the checkpoint where the user names none."""
    return "f1"


def trainer_options(
    arguments: NerArguments,
    data: TaggingData,
    tokens: dict[str, Dataset],
    options: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Return collator and metrics for `Trainer`; the loss is the model's own."""
    padding = {-100, tokenizer.pad_token_id}
    return {
        "data_collator": DataCollatorForTokenClassification(tokenizer),
        "compute_metrics": metrics_function(data, tokens["validation"], padding),
        "preprocess_logits_for_metrics": best_labels,
    }


def best_labels(logits: Any, labels: Any) -> Any:
    """Return (B, T) the label of each token, which is all that scores need.

    Args:
        logits: (B, T, C) what the model put out, perhaps with more behind it.
        labels: (B, T) the right answers.
    """
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def metrics_function(
    data: TaggingData, tokens: Dataset, padding: set[int | None]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what `Trainer` calls after each evaluation: scores of the words, without intervals."""
    split = data.splits["validation"]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        if prediction.inputs is None:
            raise ValueError("The scores of a tagger need include_for_metrics=[inputs], which is the default.")
        order = rows_of(prediction.inputs, tokens["input_ids"][:], padding)
        found = tags_of_words(np.asarray(prediction.predictions), order, tokens, split, data.label_names)
        scores = score_spans(split["tags"][:], found, data.label_names, resamples=10)
        return {name: scores[name].value if name in scores else 0.0 for name in METRICS}

    return compute


def predict_tags(trainer: Trainer, tokens: Dataset, split: Dataset, label_names: list[str]) -> list[list[int]]:
    """Return the label of every word of every sentence, in the order of the sentences; legal in each.

    Rows of like length stand together in a batch, so that little padding is read.

    Raises:
        ValueError: if a row got no prediction, or more than one.
    """
    order = np.argsort(tokens["length"][:], kind="stable").tolist()
    found: Array = np.asarray(trainer.predict(tokens.select(order)).predictions)
    return tags_of_words(found, order, tokens, split, label_names)


def evaluate_tags(
    arguments: NerArguments, data: TaggingData, tokens: dict[str, Dataset], evaluator: Trainer, output_dir: Path
) -> dict[str, Any]:
    """Score the words of every evaluation split with intervals over documents, and sort the errors."""
    train = data.splits["train"]
    known = entity_strings(train["tags"][:], train["tokens"][:], data.label_names)
    record: dict[str, Any] = {}
    for name, split in data.splits.items():
        if name == "train":
            continue
        predictions = predict_tags(evaluator, tokens[name], split, data.label_names)
        references, words = split["tags"][:], split["tokens"][:]
        scores = score_spans(references, predictions, data.label_names, documents=split["document"][:])
        predictions_file = f"predictions-{name}.jsonl"
        if PartialState().is_main_process:
            write_tags(output_dir / predictions_file, split, predictions, data.label_names)
        record[name] = {
            "rows": len(split),
            "documents": len(set(split["document"][:])),
            "words": sum(map(len, words)),
            "fingerprint": fingerprint(split),
            "scores": {metric: value.as_dict() for metric, value in scores.items()},
            "errors": error_analysis(
                references, predictions, data.label_names, words, places=split[ORIGIN][:], known=known
            ),
            "predictions_file": predictions_file,
        }
    return {"problem": "named_entities", "entity_types": data.entity_types, "splits": record}


def write_tags(path: Path, split: Dataset, predictions: list[list[int]], label_names: list[str]) -> None:
    """Write one line per sentence: its number, document, words, right tags and predicted tags."""
    lines = []
    for number, (row, output) in enumerate(zip(split, predictions, strict=True)):
        tags = {"reference": row["tags"], "output": output}
        named = {side: [label_names[tag] for tag in values] for side, values in tags.items()}
        lines.append({"row": number, "document": row["document"], "tokens": row["tokens"], **named})
    write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


TAGGING = Task(
    name="token-classification",
    load=load_tags,
    with_validation=with_validation_documents,
    check=report_on_tags,
    tokenise=tokenise_tags,
    build_model=build_tagger,
    label_counts=label_counts,
    metrics=metric_names,
    selection_metric=selection_metric,
    trainer_options=trainer_options,
    metrics_see_inputs=True,
    evaluate=evaluate_tags,
)
