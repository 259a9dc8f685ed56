"""How the models of a task read a new row, and what they say of it: one class for each kind of answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.columns import find_text_columns, find_token_column, found_columns
from ..data.findings import text_mistake
from ..data.media.medium import Medium
from ..metrics.abstention import abstention_of, confidences
from ..modeling.words_selfattn import begin_words, token_marks
from .backbone import tokenizer_state
from .problems import PROBLEMS, Array
from .tag_encoding import label_tokens, plain_text, tags_of_places, words_of_tokens

Row = Mapping[str, Any]
Answer = dict[str, Any]
UNSURE = "unsure"
NO_TAG = "_"
MULTI = "multi_label_classification"


@dataclass
class EncodedRows:
    """Rows as token ids, whole, or as files that are still to be opened, and what else is known of each."""

    inputs: dict[str, list[Any]]  # what the model reads, by name
    offsets: list[list[tuple[int, int]]] = field(default_factory=list)  # of the tokens of a row in its text
    special: list[list[int]] = field(default_factory=list)  # 1 at the special tokens of a row
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # width and height of images that were opened

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has; of a file how much work it is, as `FileAnswers` counts it."""
        return self.inputs["length"] if "length" in self.inputs else [len(ids) for ids in self.inputs["input_ids"]]


class Answers(ABC):
    """How a row becomes what a model reads, and its logits an answer.

    Args:
        model: in evaluation mode.
        processor: of the model: its tokenizer, or what makes tensors of images or sounds.

    Attributes:
        medium: what a row is, where it is a file.
        fields: what a row may hold.
        details: what else it may hold.
        pairs: whether a row is a pair of texts; None where nobody knows.
        example: a right row.
    """

    medium: ClassVar[Medium | None] = None
    fields: ClassVar[tuple[str, ...]]
    details: ClassVar[tuple[str, ...]] = ()
    pairs: bool | None = None
    example: Row = {"text": "The first answer is slower than the others."}

    def __init__(self, model: PreTrainedModel, processor: Any):
        self.model, self.processor = model, processor
        self.label_names: list[str] = [model.config.id2label[number] for number in range(model.config.num_labels)]

    @abstractmethod
    def columns(self, split: Dataset, **given: Any) -> tuple[dict[str, str], list[str]]:
        """Return the column of each field in rows of a file, and what is to be said of them.

        Args:
            split: some rows of it, as they are read.
            given: the names that the user gives, by option, such as `text_column`.
        """

    @abstractmethod
    def mistake(self, row: Row) -> tuple[str, str]:
        """Return the field of a row that is wrong and what is wrong with it; two empty strings if it is right."""

    @abstractmethod
    def answered(self, of_words: bool) -> list[str]:
        """Return the names of what is answered to a row, of a text or of words."""

    def abstained(self, answer: Answer) -> Answer:
        """Return an answer that is too unsure to be given."""
        return answer

    def expectation(self, threshold: float, record: Mapping[str, Any]) -> str:
        """Return what to expect of the answers whose probability reaches a threshold, by the results of the run.

        Raises:
            ValueError: where answers have no probability, or the results do not say.
        """
        raise ValueError(f"abstain={threshold} needs one probability for each row, which this model does not give.")

    def answer_all(self) -> None:  # noqa: B027
        """Answer what is too unsure to be answered, too, where scores need it."""

    @property
    def processor_state(self) -> Any:
        """All of the processor that decides what is read, as `json` writes it."""
        return tokenizer_state(self.processor)

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return right rows as the model reads them; none is cut."""

    def batch(self, encoded: EncodedRows, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the rows of these numbers as a batch: here token ids, padded on the right."""
        width = padded_width(max(len(encoded.inputs["input_ids"][number]) for number in numbers))
        types = {"input_ids": self.processor.pad_token_id, "token_type_ids": self.processor.pad_token_type_id}
        batch = {}
        for name in encoded.inputs.keys() & {*self.processor.model_input_names}:
            values = np.full((len(numbers), width), types.get(name) or 0, dtype=np.int64)
            for place, number in enumerate(numbers):
                ids = encoded.inputs[name][number]
                values[place, : len(ids)] = ids
            batch[name] = torch.from_numpy(values).to(self.model.device)
        return batch

    def scores_of(self, outputs: Any) -> Tensor:
        """Return what is read of the outputs of a model, in float32: its logits."""
        logits: Tensor = outputs.logits
        return logits.float()

    @abstractmethod
    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return the answers of a batch, the rows of these numbers, from its logits in float32."""


class ClassAnswers(Answers):
    """A row has a label, or several, or a number, with calibrated probabilities."""

    def answered(self, of_words: bool) -> list[str]:
        """Return the label and, unless it is a number, the probabilities."""
        return (
            ["label"] if self.model.config.problem_type == "regression" else ["label", "probability", "probabilities"]
        )

    def abstained(self, answer: Answer) -> Answer:
        """Return `unsure` instead of the label, or in the list of labels."""
        return {**answer, "label": [UNSURE] if isinstance(answer["label"], list) else UNSURE}

    def expectation(self, threshold: float, record: Mapping[str, Any]) -> str:
        """Return how many rows of the validation split would be answered, and how many of them wrongly."""
        if self.model.config.problem_type == "regression":
            return super().expectation(threshold, record)
        if UNSURE in self.label_names:
            raise ValueError(f"abstain={threshold} answers {UNSURE!r}, which is a label of this model. Leave it out.")
        if "abstention" not in record:
            raise ValueError(
                f"abstain={threshold}: the results of this model (results.json) do not say how often it is wrong at "
                "which probability. Give a model of a finished run, trained with this version, or leave abstain out."
            )
        found = abstention_of(record["abstention"], threshold)
        said = (
            f" Below {threshold} the label is {UNSURE!r}. On the validation split a share of {found.answered} of the"
        )
        wrong = "no row" if found.error is None else f"a share of {found.error}"
        return f"{said} rows reached {found.threshold:g}; of these {wrong} was answered wrongly."

    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return label, probability (see `confidences`) and all probabilities of each row."""
        config = self.model.config
        if config.problem_type == "regression":
            return [given(value, None, {}) for value in logits[:, 0].tolist()]
        predicted = self.model.predict_labels(logits).cpu().numpy()
        problem = config.problem_type or "single_label_classification"
        outputs: Array = PROBLEMS[problem].probabilities(logits.cpu().numpy())
        sure = confidences(predicted, outputs)
        answers = []
        for label, values, probability in zip(predicted.tolist(), outputs.tolist(), sure.tolist(), strict=True):
            chosen = (
                [name for name, on in zip(self.label_names, label, strict=True) if on] if problem == MULTI else None
            )
            named = dict(zip(self.label_names, values, strict=True))
            answers.append(given(self.label_names[label] if chosen is None else chosen, probability, named))
        return answers


class TextAnswers(ClassAnswers):
    """Answers to a text, or a pair of texts."""

    fields = ("text", "text_pair")

    def __init__(self, model: PreTrainedModel, processor: Any):
        super().__init__(model, processor)
        self.pairs = model.config.text_pairs
        if self.pairs:
            self.example = {**self.example, "text_pair": "It loads what it needs."}

    def columns(self, split: Dataset, **given: Any) -> tuple[dict[str, str], list[str]]:
        """Return the columns of the texts, by the names given or by known names."""
        found, notes = find_text_columns(split, given.get("text_column"), given.get("text_pair_column"))
        if self.pairs and len(found) == 1:
            raise ValueError(
                f"This model was trained on pairs of texts, and the input has only the texts of '{found[0]}'; the "
                f"columns found are {found_columns(split)}. Name that of the second texts: text_pair_column=…"
            )
        if self.pairs is False and len(found) == 2:
            raise ValueError(
                f"This model was trained on single texts, and the input has pairs, '{found[0]}' and '{found[1]}'. "
                "Name the column of the texts: text_column=…"
            )
        return dict(zip(self.fields, found, strict=False)), notes

    def mistake(self, row: Row) -> tuple[str, str]:
        """Return the text of a row that is none, and what is wrong with it."""
        if self.pairs is False and "text_pair" in row:
            return "text_pair", "this model was trained on single texts"
        if self.pairs and "text_pair" not in row:
            return "text_pair", "it is missing, and this model was trained on pairs of texts"
        names = ["text", "text_pair"] if "text_pair" in row else ["text"]
        mistakes = ((name, text_mistake(row.get(name))[1]) for name in names)
        return next(((name, message) for name, message in mistakes if message), ("", ""))

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return texts and pairs of texts as token ids."""
        inputs: dict[str, list[Any]] = {}
        paired = [row.get("text_pair") is not None for row in rows]
        for is_pair in {*paired}:
            places = [place for place, other in enumerate(paired) if other == is_pair]
            texts = [rows[place]["text"] for place in places]
            pairs = [rows[place]["text_pair"] for place in places] if is_pair else None
            for name, values in self.processor(texts, pairs, truncation=False, verbose=False).items():
                column = inputs.setdefault(name, [[]] * len(rows))
                for place, value in zip(places, values, strict=True):
                    column[place] = value
        return EncodedRows(inputs)


def padded_width(length: int) -> int:
    """Return the width of a batch: a multiple of 8, or of more, so that it is a sixteenth above the length at most."""
    step = max(8, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


def given(label: Any, probability: float | None, probabilities: dict[str, float]) -> Answer:
    """Return the answer of a classifier."""
    return {"label": label, "probability": probability, "probabilities": probabilities}


class TagAnswers(Answers):
    """A text, or a sentence of words: its entities and, of words, the tag of each.

    A row of tokens may have `ids`, the first column of CoNLL-U, and a row of text `offsets`, the places of its words.
    """

    fields = ("text", "tokens")
    details = ("ids", "offsets")

    def __init__(self, model: PreTrainedModel, processor: PreTrainedTokenizerBase):
        super().__init__(model, processor)
        if not processor.is_fast:
            raise ValueError(f"{type(processor).__name__} gives no offsets. Take a model with a fast tokenizer.")
        self.marks = torch.tensor(token_marks(processor) or [0] * len(processor))

    def columns(self, split: Dataset, **given: Any) -> tuple[dict[str, str], list[str]]:
        """Return the column of the words, or else of the texts; of a CoNLL-U file that of the word numbers, too."""
        text = given.get("text_column")
        tokens, ids = (None, None) if text else find_token_column(split, given.get("token_column"))
        if tokens is not None:
            return {"tokens": tokens, **({} if ids is None else {"ids": ids})}, []
        found, notes = find_text_columns(split, text)
        return {"text": found[0]}, notes

    def mistake(self, row: Row) -> tuple[str, str]:
        """Return whether text or words of a row are wrong, and how."""
        if "tokens" not in row:
            return "text", text_mistake(row.get("text"))[1]
        tokens = row["tokens"]
        if not isinstance(tokens, list) or not tokens or not all(isinstance(word, str) for word in tokens):
            return "tokens", "they are no list of words, or an empty one"
        return "tokens", "" if any(word.strip() for word in tokens) else "all words are empty"

    def answered(self, of_words: bool) -> list[str]:
        """Return the entities, and the tags of words."""
        return ["entities", "tags"] if of_words else ["entities"]

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return texts, and words joined by spaces, as token ids with their places in these texts."""
        texts = [text_of(row) for row in rows]
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        encoded = dict(self.processor(texts, truncation=False, verbose=False, **options))
        offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
        return EncodedRows(encoded, offsets, special)

    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return the entities of each row, and the tags of its words."""
        scores, labels = (values.cpu().numpy() for values in logits.softmax(dim=-1).max(dim=-1))
        answers = []
        for place, number in enumerate(numbers):
            length, row = len(encoded.offsets[number]), rows[number]
            found = labels[place, :length]
            entities = self.entities(text_of(row), found, scores[place, :length], encoded, number)
            tags = {"tags": self.tags(row, found, encoded, number)} if {"tokens", "offsets"} & {*row} else {}
            answers.append({"entities": entities, **tags})
        return answers

    def entities(self, text: str, labels: Array, scores: Array, encoded: EncodedRows, number: int) -> list[Answer]:
        """Return the entities that the tokens of a text are in, as a pipeline groups them: I-X goes on with any X."""
        offsets, special = encoded.offsets[number], encoded.special[number]
        groups: list[tuple[str, list[int]]] = []
        before = ""  # the type of the token before
        for token, label in enumerate(labels.tolist()):
            if special[token]:
                continue
            name = self.label_names[label]
            kind = name[2:] if name.startswith(("B-", "I-")) else name
            if kind == "O":
                pass
            elif kind == before and not name.startswith("B-"):
                groups[-1][1].append(token)
            else:
                groups.append((kind, [token]))
            before = kind
        found = []
        for kind, tokens in groups:
            start, end = offsets[tokens[0]][0], offsets[tokens[-1]][1]
            start += len(text[start:end]) - len(text[start:end].lstrip())  # a token may begin with a space
            score = float(np.mean(scores[tokens]))
            found.append({"type": kind, "start": start, "end": end, "text": text[start:end], "score": score})
        return found

    def tags(self, row: Row, labels: Array, encoded: EncodedRows, number: int) -> list[str]:
        """Return the tag of each word of a row."""
        if "O" not in self.label_names:
            raise ValueError(f"The labels of the model are {self.label_names}, and no tags. Give texts, not tokens.")
        spans = np.asarray(row["offsets"] if "offsets" in row else plain_text(words_of(row))[1])
        is_text = ~torch.tensor(encoded.special[number], dtype=torch.bool)[None]
        begins, blanks = begin_words(self.marks[encoded.inputs["input_ids"][number]][None], is_text)
        of_tokens = words_of_tokens(encoded.offsets[number], spans[:, 0], spans[:, 1], blanks[0].numpy())
        places = label_tokens(of_tokens, begins[0].tolist(), [0] * len(spans), [0])[1]
        tags = [self.label_names[tag] for tag in tags_of_places(labels, places, len(spans), self.label_names)]
        if "offsets" in row:
            return tags
        return [tags.pop(0) if is_word(row, place) else NO_TAG for place in range(len(row["tokens"]))]


def is_word(row: Row, place: int) -> bool:
    """Return whether a line of a sentence is a word, and no range ("1-2") or empty node ("3.1") of CoNLL-U."""
    return "ids" not in row or row["ids"][place].isdecimal()


def words_of(row: Row) -> list[str]:
    """Return the words of a row of tokens."""
    return [token for place, token in enumerate(row["tokens"]) if is_word(row, place)]


def text_of(row: Row) -> str:
    """Return the text of a row that holds a text, or words."""
    return row["text"] if "text" in row else plain_text(words_of(row))[0]
