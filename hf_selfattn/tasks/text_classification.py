"""Classes, sets of labels, ordered classes or a number for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from ..data import ClassificationData, check_classification, deduplicate, prepare_classification
from ..data.classification import read_classification
from ..data.load import with_origins
from ..modeling.modeling_selfattn import SelfAttnForSequenceClassification
from .answers import TextAnswers
from .backbone import open_backbone, window_of
from .classification import Classification, ClassificationArguments
from .evaluation import score_tfidf
from .problems import as_references
from .streaming import STREAM_OPTIONS, ShuffledStream, load_stream, stream_collator

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass
class TextClassificationArguments(ClassificationArguments):
    """Tune a text classifier.

    Args:
        text_column: column of the texts; a well-known name is found.
        text_pair_column: column of the second texts, likewise.
        deduplicate: drop repeated training rows, and training rows that stand in an evaluation split.
        streaming: read the rows of train while training, for data that no memory holds (docs/scaling.md); needs
            `max_steps` and a validation split.
        streaming_buffer: rows of a stream among which the next one is drawn at random.
        baseline: score TF-IDF with a linear model on the same rows beside the model.
    """

    task: ClassVar[str] = "text-classification"

    text_column: str | None = None
    text_pair_column: str | None = None
    deduplicate: bool = False
    streaming: bool = False
    streaming_buffer: int = 1000
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and self.caches_features:
            raise ValueError(self.needs_whole_rows("streaming=true"))
        if self.streaming and self.probe_epochs is not None:
            raise ValueError(
                f"probe_epochs={self.probe_epochs}, but with streaming=true an epoch has no end. Leave it out: each "
                "phase makes max_steps."
            )

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("text_column", "text_pair_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


class TextClassification(Classification[TextClassificationArguments]):
    """A row is a text, or a pair of texts, with its labels; answers are calibrated on the validation split."""

    name = pipeline = command = "text-classification"
    model_class = SelfAttnForSequenceClassification
    peft_type = "SEQ_CLS"
    answers = TextAnswers
    arguments_class = TextClassificationArguments
    columns_trained = ("text_column", "text_pair_column", "label_column")

    def splits(self) -> tuple[DatasetDict, list[str]]:
        """Return the rows as the task reads them, and what was done to them."""
        return self.raw_rows(), []

    def load(self) -> ClassificationData:
        """Load and check the data, all of it or, with `streaming`, all but the rows of train."""
        arguments = self.arguments
        if arguments.streaming:
            return load_stream(arguments)
        with PartialState().local_main_process_first():
            splits, notes = self.splits()
            kept = [arguments.group_column] if arguments.group_column else []
            data = prepare_classification(
                splits, on_bad_row=arguments.on_bad_row, keep_columns=kept, **arguments.columns()
            )
            data.notes[:0] = notes
        return deduplicate(data) if arguments.deduplicate else data

    def report(self) -> dict[str, Any]:
        """Return the report on the rows, and what was done to them."""
        backbone_config, tokenizer = open_backbone(self.arguments)
        splits, notes = self.splits()
        window = window_of(backbone_config, tokenizer)
        report = check_classification(splits, tokenizer, window, **self.arguments.columns())
        report["notes"][:0] = notes
        return report

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns, the problem and the labels of the data, and notes on them."""
        splits, before = self.splits()
        _, columns, scheme, notes = read_classification(with_origins(splits), **self.arguments.columns())
        found: dict[str, Any] = {
            "text_column": columns.text,
            "text_pair_column": columns.text_pair,
            "problem": scheme.problem,
        }
        if scheme.problem != "regression":
            found["label_names"] = scheme.names
        return {**found, "label_column": columns.label, "problem": scheme.problem}, [*before, *notes]

    def encode(self, data: ClassificationData, processor: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the tokenised splits; of a stream the rows of train, to be tokenised when they are read."""
        encoded: dict[str, Any] = {
            name: tokenise(split, processor, data.problem) for name, split in data.splits.items()
        }
        if data.stream is None:
            return encoded
        stream = ShuffledStream(data.stream, self.arguments.seed, self.arguments.streaming_buffer)
        return {"train": stream, **encoded}

    def training_defaults(self) -> dict[str, Any]:
        """Return the options that a stream needs, which has no length."""
        return STREAM_OPTIONS if self.arguments.streaming else {}

    def row_options(self, data: ClassificationData) -> dict[str, Any]:
        """Return whether the rows are pairs of texts."""
        return {"text_pairs": "text_pair" in next(iter(data.splits.values())).column_names}

    def trainer_options(
        self, data: ClassificationData, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return loss, collator and metrics for `Trainer`; texts of a stream are tokenised in its batches."""
        given = super().trainer_options(data, encoded, options, processor)
        return given if data.stream is None else {**given, "data_collator": stream_collator(processor)}

    def train_record(self, data: ClassificationData) -> dict[str, Any]:
        """Return rows, fingerprint and counts of the labels of train, of a stream what is known of them."""
        return super().train_record(data) if data.stream is None else data.stream.as_dict()

    def rows(self, data: ClassificationData) -> list[dict[str, Any]]:
        """Return the texts, or pairs of texts."""
        split = data.splits["test"]
        names = [name for name in ("text", "text_pair") if name in split.column_names]
        rows: list[dict[str, Any]] = split.select_columns(names).to_list()
        return rows

    def baselines(self, data: ClassificationData) -> dict[str, Any]:
        """Score TF-IDF with a linear model; of a stream nothing, since it would read all rows at once."""
        is_scored = self.arguments.baseline and data.stream is None
        return {"tfidf": score_tfidf(data, self.arguments.seed)} if is_scored else {}


def tokenise(split: Dataset, tokenizer: PreTrainedTokenizerBase, problem: str) -> Dataset:
    """Turn texts into tokens, whole, with the columns `labels` and `length` (in tokens)."""

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = dict(tokenizer(rows["text"], rows.get("text_pair"), truncation=False, verbose=False))
        encoded["labels"] = as_references(rows["label"], problem).tolist()
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    return split.map(encode, batched=True, remove_columns=split.column_names, desc="tokenising")
