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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..adapters import base_model
from ..arguments import RunArguments
from ..data import TaggingData, by_document, check_tagging, fingerprint, prepare_tagging
from ..data.formats import ORIGIN
from ..data.load import with_origins
from ..data.sentences import read_tagging
from ..files import write_text
from ..metrics import entity_strings, error_analysis, score_spans
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification
from .answers import TagAnswers
from .backbone import open_backbone, window_of
from .evaluation import order_by_length
from .problems import Array
from .tag_encoding import encode_split, joined_rows, legal_tags, tags_of_words
from .task import Task

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import EvalPrediction, Trainer, TrainingArguments

METRICS = ["precision", "recall", "f1", "token_accuracy"]


@dataclass
class NerArguments(RunArguments):
    """Tune a tagger of named entities.

    Args:
        token_column: column of the words, or its number in a column file; found where it is not given.
        tag_column: column of the tags, or its number in a column file; found where it is not given.
        text_column: column of the texts of rows with spans; a well-known name is found.
        span_column: character spans of `text_column`, instead of tokens and tags.
        document_column: the id of a row's document.
        scheme: of the tags, such as `IOB2`; detected where it is not given.
        tag_names: the names of integer tags that have none.
        entity_types: all types, where train does not have them all.
        on_broken_tag: `repair` reads broken tags as conlleval does, or `error`.
        on_cut_word: `error`, or `widen` a span that cuts a word to the whole word.
        on_overlap: `error`, or of spans that overlap keep the `longest`, or the `first` to begin.
        context: the model reads a `sentence` at a time, or a `document`; scores are those of the sentences.
    """

    task: ClassVar[str] = "token-classification"

    token_column: str | int | None = None
    tag_column: str | int | None = None
    text_column: str | None = None
    span_column: str | None = None
    document_column: str | None = None
    scheme: str | None = None
    tag_names: list[str] | None = None
    entity_types: list[str] | None = None
    on_broken_tag: Literal["repair", "error"] = "repair"
    on_cut_word: Literal["error", "widen"] = "error"
    on_overlap: Literal["error", "longest", "first"] = "error"
    context: Literal["sentence", "document"] = "sentence"

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and tags."""
        names = ("token_column", "tag_column", "text_column", "span_column", "document_column", "scheme", "tag_names")
        return {name: getattr(self, name) for name in (*names, "entity_types", "on_overlap")}


class TokenClassification(Task[NerArguments]):
    """A row is a sentence, or a document, of words with tags; answers are legal sequences of them."""

    name = pipeline = "token-classification"
    command = "ner"
    model_class = SelfAttnForTokenClassification
    peft_type = "TOKEN_CLS"
    answers = TagAnswers
    arguments_class = NerArguments
    columns_trained = (
        *("token_column", "tag_column", "text_column", "span_column", "document_column"),
        *("scheme", "tag_names", "on_broken_tag", "on_cut_word", "context"),
    )
    # Elsewhere a probe starts at 0, because sentiment loses in other domains where it starts higher, and its heads are
    # slower than the rest; a tagger has as many answers as tokens (benchmarks/LOG.md).
    fusion_init = 0.1
    probe_heads_share = 1.0
    candidates = {**Task.candidates, "attention": dict(sorted(Task.candidates["attention"].items()))}  # .1 first

    def load(self) -> TaggingData:
        """Load the splits that the arguments name and check them."""
        arguments = self.arguments
        with PartialState().local_main_process_first():
            return prepare_tagging(
                self.raw_rows(),
                on_broken_tag=arguments.on_broken_tag,
                on_cut_word=arguments.on_cut_word,
                on_bad_row=arguments.on_bad_row,
                **arguments.columns(),
            )

    def with_validation(self, data: TaggingData) -> TaggingData:
        """Return the data with a validation split, made of documents of train where there is none."""
        if "validation" in data.splits:
            return data
        train = data.splits["train"]
        documents = by_document(train)
        if len(documents) < 2:
            raise ValueError("train is one document, so no validation split can be made of it. Give validation=FILE.")
        order = np.random.default_rng(self.arguments.seed).permutation(len(documents))
        count = min(max(1, round(self.arguments.validation_fraction * len(documents))), len(documents) - 1)
        parts = {"train": order[count:], "validation": order[:count]}
        made = {name: train.select(sorted(row for i in part for row in documents[i])) for name, part in parts.items()}
        note = f"{count} of {len(documents)} documents of train are the validation split."
        splits = DatasetDict({**data.splits, **made})
        return TaggingData(splits, data.label_names, data.entity_types, [*data.notes, note])

    def units(self, train: Dataset) -> list[list[int]]:
        """Return the sentences of each document; those of a single one stand alone."""
        documents = by_document(train)
        return documents if len(documents) > 1 else super().units(train)

    def report(self) -> dict[str, Any]:
        """Return the report on the rows."""
        backbone_config, tokenizer = open_backbone(self.arguments)
        window = window_of(backbone_config, tokenizer)
        return check_tagging(self.raw_rows(), tokenizer, window, **self.arguments.columns())

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns and the entity types of the data, and notes on them."""
        read = read_tagging(with_origins(self.raw_rows()), **self.arguments.columns())
        columns = next(iter(read.columns.values()))
        found = {"token_column": columns.tokens, "tag_column": columns.tags}
        if columns.spans:
            found = {"text_column": columns.text, "span_column": columns.spans}
        return {**found, "entity_types": read.entity_types}, read.notes()

    def build_model(self, data: TaggingData, backbone_config: PreTrainedConfig) -> PreTrainedModel | PeftModel:
        """Return the model that trains, with its smoothing of labels."""
        model = super().build_model(data, backbone_config)
        base_model(model).label_smoothing = float(self.arguments.options.get("label_smoothing_factor") or 0)
        return model

    def encode(self, data: TaggingData, processor: PreTrainedTokenizerBase) -> dict[str, Dataset]:
        """Return the tokenised splits, a row for each sentence or document."""
        whole = self.arguments.context == "document"
        return {
            name: encode_split(split, processor, data.label_names, whole_documents=whole)
            for name, split in data.splits.items()
        }

    def metrics(self, data: TaggingData) -> list[str]:
        """Return the metrics of the validation split."""
        return METRICS

    def selection_metric(self, data: TaggingData) -> str:
        """Return the metric that picks the checkpoint."""
        return "f1"

    def trainer_options(
        self,
        data: TaggingData,
        encoded: dict[str, Dataset],
        options: TrainingArguments,
        processor: PreTrainedTokenizerBase,
    ) -> dict[str, Any]:
        """Return collator and metrics for `Trainer`; the loss is the model's own, which smooths labels itself."""
        if options.label_smoothing_factor and self.arguments.heads.get("decoding") == "crf":
            raise ValueError("heads.decoding=crf has a loss of its own: leave label_smoothing_factor out.")
        options.label_smoothing_factor = 0.0
        return {
            "data_collator": DataCollatorForTokenClassification(processor),
            "compute_metrics": tag_metrics(data, encoded["validation"]),
            "preprocess_logits_for_metrics": likeliest_labels,
        }

    def train_record(self, data: TaggingData) -> dict[str, Any]:
        """Return rows, fingerprint and how many entities of each type stand in train."""
        train = data.splits["train"]
        return {"rows": len(train), "fingerprint": fingerprint(train), "labels": entity_counts(data)}

    def evaluate(
        self, data: TaggingData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score the words of every evaluation split with intervals over documents, and sort the errors."""
        train = data.splits["train"]
        known = entity_strings(train["tags"][:], train["tokens"][:], data.label_names)
        record = {}
        for name, split in data.splits.items():
            if name != "train":
                predictions = predict_tags(evaluator, encoded[name], split, data.label_names)
                if PartialState().is_main_process:
                    write_tags(output_dir / f"predictions-{name}.jsonl", split, predictions, data.label_names)
                record[name] = split_record(name, split, predictions, data.label_names, known)
        return {"problem": "named_entities", "entity_types": data.entity_types, "splits": record}

    @classmethod
    def model_options(cls, config: PreTrainedConfig, trained: dict[str, Any]) -> dict[str, Any]:
        """Return the entity types, the columns and the context of a model."""
        names = [config.id2label[number] for number in range(config.num_labels)]
        types = [name[2:] for name in names if name.startswith("B-")]
        return {**super().model_options(config, trained), "entity_types": types}

    def rows(self, data: TaggingData) -> list[dict[str, Any]]:
        """Return the text of each sentence, or document, with the places of its words."""
        split = data.splits["test"]
        joined = (joined_rows(split, group) for group in groups_of(split, self.arguments.context))
        return [{"text": text, "offsets": spans.tolist()} for text, spans in joined]

    def score_answers(
        self, data: TaggingData, answers: list[dict[str, Any]], config: PreTrainedConfig
    ) -> dict[str, Any]:
        """Return the scores of the tags of all sentences, and their errors by kind."""
        split, numbers = data.splits["test"], {name: number for number, name in enumerate(data.label_names)}
        found: list[list[int]] = [[]] * len(split)
        for group, answer in zip(groups_of(split, self.arguments.context), answers, strict=True):
            tags = iter(answer["tags"])
            for row in group:
                own = [numbers[next(tags)] for _ in split[row]["tokens"]]
                found[row] = legal_tags(own, data.label_names)
        record = split_record("test", split, found, data.label_names, None)
        return {name: value for name, value in record.items() if name != "predictions_file"}


def groups_of(split: Dataset, context: str) -> list[list[int]]:
    """Return the numbers of the sentences that are read together: of each document, or one at a time."""
    return by_document(split) if context == "document" else [[row] for row in range(len(split))]


def split_record(
    name: str, split: Dataset, predictions: list[list[int]], label_names: list[str], known: Any
) -> dict[str, Any]:
    """Return scores and errors of an evaluation split, from its predicted labels and the entities of train."""
    references, words = split["tags"][:], split["tokens"][:]
    scores = score_spans(references, predictions, label_names, documents=split["document"][:])
    errors = error_analysis(references, predictions, label_names, words, places=split[ORIGIN][:], known=known)
    return {
        "rows": len(split),
        "documents": len(set(split["document"][:])),
        "words": sum(map(len, words)),
        "fingerprint": fingerprint(split),
        "scores": {metric: value.as_dict() for metric, value in scores.items()},
        "errors": errors,
        "predictions_file": f"predictions-{name}.jsonl",
    }


def entity_counts(data: TaggingData) -> dict[str, int]:
    """Return how many entities of each type stand in train."""
    beginnings = Counter(data.label_names[tag] for tags in data.splits["train"]["tags"][:] for tag in tags)
    return {kind: beginnings[f"B-{kind}"] for kind in data.entity_types}


def likeliest_labels(logits: Any, labels: Any) -> Any:
    """Return (B, T) the label of each token, of logits (B, T, C) and perhaps more: all that scores need."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def tag_metrics(data: TaggingData, tokens: Dataset) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what `Trainer` calls after each evaluation of the validation split, whose rows come by length."""
    split, order = data.splits["validation"], order_by_length(tokens).tolist()

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        found = tags_of_words(np.asarray(prediction.predictions), order, tokens, split, data.label_names)
        scores = score_spans(split["tags"][:], found, data.label_names, resamples=10)
        return {name: scores[name].value if name in scores else 0.0 for name in METRICS}

    return compute


def predict_tags(trainer: Trainer, tokens: Dataset, split: Dataset, label_names: list[str]) -> list[list[int]]:
    """Return the label of every word of every sentence, in the order of the sentences; legal in each.

    Rows of like length stand together in a batch, so that little padding is read.
    """
    order = order_by_length(tokens).tolist()
    found: Array = np.asarray(trainer.predict(tokens.select(order)).predictions)
    return tags_of_words(found, order, tokens, split, label_names)


def write_tags(path: Path, split: Dataset, predictions: list[list[int]], label_names: list[str]) -> None:
    """Write one line per sentence: its number, document, words, right tags and predicted tags."""
    lines = []
    for number, (row, output) in enumerate(zip(split, predictions, strict=True)):
        tags = {"reference": row["tags"], "output": output}
        named = {side: [label_names[tag] for tag in values] for side, values in tags.items()}
        lines.append({"row": number, "document": row["document"], "tokens": row["tokens"], **named})
    write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
