"""How the models of a task read a new row, and what they say of it: one class for each kind of answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.findings import text_mistake
from ..modeling.words_selfattn import begin_words, token_marks
from .problems import PROBLEMS, Array
from .tag_encoding import label_tokens, plain_text, tags_of_places, words_of_tokens

Row = Mapping[str, Any]
Answer = dict[str, Any]


@dataclass
class EncodedRows:
    """Rows as token ids, whole, and what else is known of each."""

    inputs: dict[str, list[list[int]]]  # what the model reads, by name
    offsets: list[list[tuple[int, int]]] = field(default_factory=list)  # of the tokens of a row in its text
    special: list[list[int]] = field(default_factory=list)  # 1 at the special tokens of a row

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has."""
        return [len(ids) for ids in self.inputs["input_ids"]]


class Answers(ABC):
    """How a row becomes what a model reads, and its logits an answer.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.

    Attributes:
        fields: what a row may hold.
    """

    fields: ClassVar[tuple[str, ...]]

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer
        self.label_names: list[str] = [model.config.id2label[number] for number in range(model.config.num_labels)]

    @abstractmethod
    def mistake(self, row: Row) -> str:
        """Return what is wrong with a row, or nothing."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return right rows as the model reads them; none is cut."""

    @abstractmethod
    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return the answers of a batch, the rows of these numbers, from its logits in float32."""


class TextAnswers(Answers):
    """A text, or a pair of texts: its label, or several, or a number, with calibrated probabilities."""

    fields = ("text", "text_pair")

    def mistake(self, row: Row) -> str:
        """Return what is wrong with the texts of a row, or nothing."""
        if "text" not in row:
            return f"there is no text; a row is {{'text': …}}, or {{'text': …, 'text_pair': …}}, and has {[*row]}"
        names = ["text"] if row.get("text_pair") is None else ["text", "text_pair"]
        mistakes = ((name, text_mistake(row[name])[1]) for name in names)
        return next((f"'{name}': {message}" for name, message in mistakes if message), "")

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return texts and pairs of texts as token ids."""
        inputs: dict[str, list[Any]] = {}
        paired = [row.get("text_pair") is not None for row in rows]
        for is_pair in {*paired}:
            places = [place for place, other in enumerate(paired) if other == is_pair]
            texts = [rows[place]["text"] for place in places]
            pairs = [rows[place]["text_pair"] for place in places] if is_pair else None
            for name, values in self.tokenizer(texts, pairs, truncation=False, verbose=False).items():
                column = inputs.setdefault(name, [[]] * len(rows))
                for place, value in zip(places, values, strict=True):
                    column[place] = value
        return EncodedRows(inputs)

    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return label, probability and all probabilities of each row.

        The probability of a set of labels is the least of theirs; that of no label, how sure it is that none is one.
        """
        config = self.model.config
        if config.problem_type == "regression":
            return [answer(value, None, {}) for value in logits[:, 0].tolist()]
        predicted = self.model.predict_labels(logits).cpu().numpy()
        problem = config.problem_type or "single_label_classification"
        outputs: Array = PROBLEMS[problem].probabilities(logits.cpu().numpy())
        answers = []
        for label, values in zip(predicted.tolist(), outputs.tolist(), strict=True):
            named = dict(zip(self.label_names, values, strict=True))
            if isinstance(label, int):
                answers.append(answer(self.label_names[label], values[label], named))
                continue
            chosen = [name for name, on in zip(self.label_names, label, strict=True) if on]
            answers.append(answer(chosen, min((named[name] for name in chosen), default=1 - max(values)), named))
        return answers


def answer(label: Any, probability: float | None, probabilities: dict[str, float]) -> Answer:
    """Return the answer of a classifier."""
    return {"label": label, "probability": probability, "probabilities": probabilities}


class TagAnswers(Answers):
    """A text, or a sentence of words: its entities and, of words, the tag of each."""

    fields = ("text", "tokens")

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__(model, tokenizer)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} gives no offsets. Take a model with a fast tokenizer.")
        self.marks = torch.tensor(token_marks(tokenizer) or [0] * len(tokenizer))

    def mistake(self, row: Row) -> str:
        """Return what is wrong with the text or the words of a row, or nothing."""
        if ("text" in row) == ("tokens" in row):
            return f"a row is {{'text': …}} or {{'tokens': […]}}, and has {[*row]}"
        if "text" in row:
            message = text_mistake(row["text"])[1]
            return f"'text': {message}" if message else ""
        tokens = row["tokens"]
        if not isinstance(tokens, list) or not tokens or not all(isinstance(word, str) for word in tokens):
            return "'tokens': it is no list of words, or an empty one"
        return "" if any(word.strip() for word in tokens) else "'tokens': all words are empty"

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return texts, and words joined by spaces, as token ids with their places in these texts."""
        texts = [text_of(row) for row in rows]
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        encoded = dict(self.tokenizer(texts, truncation=False, verbose=False, **options))
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
            tags = {"tags": self.tags(row["tokens"], found, encoded, number)} if "tokens" in row else {}
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

    def tags(self, words: list[str], labels: Array, encoded: EncodedRows, number: int) -> list[str]:
        """Return the tag of each word of a row."""
        if "O" not in self.label_names:
            raise ValueError(f"The labels of the model are {self.label_names}, and no tags. Give texts, not tokens.")
        spans = np.asarray(plain_text(words)[1])
        is_text = ~torch.tensor(encoded.special[number], dtype=torch.bool)[None]
        begins, blanks = begin_words(self.marks[encoded.inputs["input_ids"][number]][None], is_text)
        of_tokens = words_of_tokens(encoded.offsets[number], spans[:, 0], spans[:, 1], blanks[0].numpy())
        places = label_tokens(of_tokens, begins[0].tolist(), [0] * len(words), [0])[1]
        return [self.label_names[tag] for tag in tags_of_places(labels, places, len(words), self.label_names)]


def text_of(row: Row) -> str:
    """Return the text of a row that holds a text, or words."""
    return row["text"] if "text" in row else plain_text(row["tokens"])[0]
