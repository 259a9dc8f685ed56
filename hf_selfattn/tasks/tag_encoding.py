"""Tagged words to tokens with labels, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..data import by_document
from ..modeling.words_selfattn import begin_words, continuing_labels, token_marks

IGNORED = -100


def legal_tags(tags: list[int], label_names: list[str]) -> list[int]:
    """Return tags in which an I-X that goes on with no entity of type X begins one, as conlleval reads it."""
    mended: list[int] = []
    before = "O"
    for tag in tags:
        name = label_names[tag]
        if name.startswith("I-") and before[2:] != name[2:]:
            tag = label_names.index(f"B-{name[2:]}")
        mended.append(tag)
        before = name
    return mended


def encode_split(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, label_names: list[str], *, whole_documents: bool
) -> Dataset:
    """Tokenise sentences, or whole documents, as a plain text of their words, so as a pipeline does.

    Returns:
        The tokenizer's columns, `labels` and `length`, and `places`: at each token with a label the number of its word
        among all words of the split, -1 elsewhere.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets. Take a backbone with a fast tokenizer.")
    tokens, tags = split["tokens"][:], split["tags"][:]
    first = np.cumsum([0, *map(len, tokens)])
    groups = by_document(split) if whole_documents else [[row] for row in range(len(split))]
    joined = [joined_rows(split, group) for group in groups]
    texts, starts, ends = (
        [text for text, _ in joined],
        [spans[:, 0] for _, spans in joined],
        [spans[:, 1] for _, spans in joined],
    )

    encoded = tokenizer(
        texts, truncation=False, verbose=False, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
    marks = torch.tensor(token_marks(tokenizer) or [0] * len(tokenizer))
    later = continuing_labels(label_names).tolist()
    columns: dict[str, list[Any]] = {**encoded, "labels": [], "places": []}
    for row, group in enumerate(groups):
        is_text = ~torch.tensor(special[row], dtype=torch.bool)[None]
        begins, blanks = begin_words(marks[encoded["input_ids"][row]][None], is_text)
        words = words_of_tokens(offsets[row], starts[row], ends[row], blanks[0].numpy())
        row_tags = [tag for i in group for tag in tags[i]]
        numbers = [number for i in group for number in range(first[i], first[i + 1])]
        labels, places = label_tokens(words, begins[0].tolist(), row_tags, later)
        has_label = [i for i, label in enumerate(labels) if label != IGNORED]
        for i, label in zip(has_label, legal_tags([labels[i] for i in has_label], label_names), strict=True):
            labels[i] = label
        columns["labels"].append(labels)
        columns["places"].append([-1 if word < 0 else numbers[word] for word in places])
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(columns)


def joined_rows(split: Dataset, group: list[int]) -> tuple[str, NDArray[Any]]:
    """Return the text of sentences one after the other, and start and end (n, 2) of their words in it."""
    rows = [split[number] for number in group]
    parts = [(row["text"], row["offsets"]) if "text" in row else plain_text(row["tokens"]) for row in rows]
    shifts = np.cumsum([0, *(len(text) + 1 for text, _ in parts)])
    spans = [np.asarray(offsets) + shift for (_, offsets), shift in zip(parts, shifts, strict=False)]
    return " ".join(text for text, _ in parts), np.concatenate(spans)


def plain_text(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return words joined by spaces, and start and end of each in that text."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    return " ".join(words), [(start, start + len(word)) for start, word in zip(starts, words, strict=False)]


def words_of_tokens(offsets: list[tuple[int, int]], starts: Any, ends: Any, blanks: Any) -> list[int]:
    """Return the number of the word that each token is part of, -1 for none, as for a token that shows nothing."""
    last = np.array([end - 1 for _, end in offsets])  # a token may begin with the space before its word
    words = np.searchsorted(starts, last, side="right") - 1
    inside = np.array([start < end for start, end in offsets]) & ~blanks & (words >= 0) & (last < ends[words])
    return np.where(inside, words, -1).tolist()  # type: ignore[no-any-return]


def label_tokens(
    words: list[int], begins: list[bool], tags: list[int], later: list[int]
) -> tuple[list[int], list[int]]:
    """Return the labels of the tokens, and at each that has one the number of its word, -1 elsewhere.

    Args:
        words: the number of each token's word, -1 for none.
        begins: True at tokens that begin a word of the tokenizer.
    """
    labels, places, before = [], [], -1
    for word, begin in zip(words, begins, strict=True):
        is_first = word >= 0 and word != before
        if is_first:
            label = tags[word]
        else:
            label = later[tags[word]] if word >= 0 and begin else IGNORED
        labels.append(label)
        places.append(-1 if label == IGNORED else word)
        before = word if word >= 0 else before
    return labels, places


def tags_of_words(
    found: NDArray[Any], order: list[int], tokens: Dataset, split: Dataset, label_names: list[str]
) -> list[list[int]]:
    """Return the label of every word of every sentence: that of its first part in an entity, else none.

    A pipeline shows an entity that covers a part of a word, so the word is in it. A word of which the tokenizer left
    nothing is in no entity. The labels found are (N, T), one for each token.
    """
    places: list[list[int]] = tokens["places"][:]
    if len(found) != len(tokens) or sorted(order) != list(range(len(tokens))):
        raise ValueError(
            f"{len(tokens)} rows were evaluated, but {len(found)} predictions came back, or a row was answered "
            "twice. Check custom samplers and `dataloader_drop_last`."
        )
    sizes = [len(words) for words in split["tokens"][:]]
    outside = label_names.index("O")
    flat = np.full(sum(sizes), outside)
    for labels, row in zip(found, order, strict=True):
        write_tags_of_words(flat, labels, places[row], outside)
    sentences = np.split(flat, np.cumsum(sizes)[:-1])
    return [legal_tags(sentence.tolist(), label_names) for sentence in sentences]


def tags_of_places(found: NDArray[Any], places: list[int], words: int, label_names: list[str]) -> list[int]:
    """Return the label of every word of one sentence, as `tags_of_words` does, from those of its tokens (T,)."""
    outside = label_names.index("O")
    tags = np.full(words, outside)
    write_tags_of_words(tags, found, places, outside)
    return legal_tags(tags.tolist(), label_names)


def write_tags_of_words(tags: NDArray[Any], found: NDArray[Any], places: list[int], outside: int) -> None:
    """Write into the tags of words the labels found of the tokens of a row, padding perhaps after them."""
    words = np.asarray(places)
    labels = found[: len(words)]
    counts = (words >= 0) & (labels != outside)
    tags[words[counts][::-1]] = labels[counts][::-1]  # of several parts, the first is written last
