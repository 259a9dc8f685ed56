"""Words of a text in any script, and character spans as tags on them."""

from __future__ import annotations

from typing import Any

import pytest

from hf_selfattn.data.labels import LabelError
from hf_selfattn.data.spans import read_spans, split_words, tag_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela Merkel, 67.", ["Angela", "Merkel", ",", "67", "."]),
        ("U.S.-based O'Neill", ["U", ".", "S", ".", "-", "based", "O", "'", "Neill"]),
        ("王小明在北京工作。", list("王小明在北京工作。")),
        ("GPT在AI会议2024年", ["GPT", "在", "AI", "会", "议", "2024", "年"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are no letters
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("a\u200bb\u00a0c\n", ["a", "b", "c"]),
        (" \t\n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text)] == words


def tags(text: str, *spans: Any, on_overlap: str = "error") -> tuple[list[str], list[str], list[str]]:
    return tag_words(text, split_words(text), read_spans(list(spans), text), on_overlap)


def test_spans_become_tags() -> None:
    text = "Ann Lee met Bo in New York."
    spans = [[12, 14, "PER"], {"start": 0, "end": 8, "label": "PER"}, [18, 26, "LOC"]]  # (0, 8) holds a space
    assert tags(text, *spans) == (["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "I-LOC", "O"], [], [])
    assert tags("北京大学", [0, 2, "LOC"])[0] == ["B-LOC", "I-LOC", "O", "O"]
    assert tags("touching", [0, 8, "A"])[0] == ["B-A"] and tags("a,b", [0, 1, "A"], [1, 3, "A"])[0] == [
        "B-A",
        "B-A",
        "I-A",
    ]


def test_a_span_that_cuts_a_word_is_widened_and_reported() -> None:
    assert tags("Londoners met", [0, 6, "LOC"]) == (
        ["B-LOC", "O"],
        ["[0, 6, 'LOC'] ('London') in 'Londoners'"],
        [],
    )


def test_other_names_of_start_end_and_type() -> None:
    spans = [
        {"start_offset": 0, "end_offset": 3, "label": "A"},  # Doccano
        {"start": 4, "end": 7, "type": "B", "text": "met", "score": 0.9},  # predictions of this package
        {"start": 8, "end": 10, "entity_group": "C", "word": "bo"},  # of a pipeline
        {"start": 11, "end": 13, "labels": ["D"], "text": "in"},  # Label Studio
    ]
    assert tags("Ann met Bo in", *spans)[0] == ["B-A", "B-B", "B-C", "B-D"]
    assert read_spans('[[0, 3, "A"]]', "Ann met") == [(0, 3, "A")], "a list in a cell of CSV"
    assert tags("Ann", [0, 3, "A"], [0, 3, "A"])[0] == ["B-A"], "the same span twice is one"


def test_places_counted_in_utf16_are_known_by_the_text_of_the_span() -> None:
    text = "\U0001f4a9\U0001f4a9 This is Ann\nLee"
    span = {"start": 13, "end": 20, "text": "Ann\\nLee", "label": "PER"}
    assert read_spans([span], text) == [(11, 18, "PER")]
    assert read_spans([{**span, "start": 11, "end": 18}], text) == [(11, 18, "PER")]


@pytest.mark.parametrize(
    ("on_overlap", "expected"),
    [("longest", ["O", "B-B", "I-B", "I-B", "B-C"]), ("first", ["B-A", "I-A", "O", "O", "B-C"])],
)
def test_of_spans_that_overlap_one_is_kept(on_overlap: str, expected: list[str]) -> None:
    text = "one two three four five"
    found, _, left_out = tags(text, [4, 18, "B"], [0, 7, "A"], [4, 7, "D"], [19, 23, "C"], on_overlap=on_overlap)
    assert found == expected
    assert len(left_out) == 2 and "[4, 18, 'B'] ('two three four')" in left_out[0] and "[0, 7, 'A']" in left_out[0]


@pytest.mark.parametrize(
    ("spans", "kind", "message"),
    [
        (
            [[0, 5, "A"], [3, 9, "B"]],
            "span_overlap",
            r"two spans overlap.*: \[0, 5, 'A'\] \('Hello'\) and \[3, 9, 'B'\] \('lo the'\)",
        ),
        ([[0, 2, "A"], [2, 5, "B"]], "span_overlap", "or share a word"),
        ([[5, 6, "A"]], "span_empty", "holds no word"),
        ([[4, 40, "A"]], "span_outside", "in 11 characters"),
        ([[4, 4, "A"]], "span_outside", "does not lie"),
        ([[0, 5]], "span_form", "a span must be"),
        ([{"start": "0", "end": 5, "label": "A"}], "span_form", "but is"),
        ([{"start": 0, "end": 5, "label": " "}], "span_form", "but is"),
        ([{"start": 0, "end": 5, "label": "A", "text": "there"}], "span_text", "said to be 'there', but is 'Hello'"),
        ([{"start": 6, "end": 50, "label": "A", "text": "there"}], "span_outside", "in 11 characters"),
        ("0-5", "span_form", "no list but str"),
        ("[0", "span_form", "a text that is no JSON"),
    ],
)
def test_bad_spans(spans: object, kind: str, message: str) -> None:
    text = "Hello there"
    with pytest.raises(LabelError, match=message) as caught:
        tag_words(text, split_words(text), read_spans(spans, text))
    assert caught.value.kind == kind
