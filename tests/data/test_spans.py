"""Words of a text in any script, and character spans as tags on them."""

from __future__ import annotations

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


def tags(text: str, *spans: list) -> tuple[list[str], list[tuple[int, str]]]:
    return tag_words(text, split_words(text), read_spans(list(spans), len(text)))


def test_spans_become_tags() -> None:
    text = "Ann Lee met Bo in New York."
    spans = [[12, 14, "PER"], {"start": 0, "end": 8, "label": "PER"}, [18, 26, "LOC"]]  # (0, 8) holds a space
    assert tags(text, *spans) == (["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "I-LOC", "O"], [])
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
    )


@pytest.mark.parametrize(
    ("spans", "kind", "message"),
    [
        ([[0, 5, "A"], [3, 9, "B"]], "span_overlap", r"two spans overlap: \[0, 5, 'A'\] and \[3, 9, 'B'\]"),
        ([[0, 2, "A"], [2, 5, "B"]], "span_overlap", "shares a word"),
        ([[5, 6, "A"]], "span_empty", "holds no word"),
        ([[4, 40, "A"]], "span_outside", "in 11 characters"),
        ([[4, 4, "A"]], "span_outside", "does not lie"),
        ([[0, 5]], "span_form", "a span must be"),
        ([{"start": "0", "end": 5, "label": "A"}], "span_form", "but is"),
        ([{"start": 0, "end": 5, "label": " "}], "span_form", "but is"),
        ("0-5", "span_form", "no list but str"),
    ],
)
def test_bad_spans(spans: object, kind: str, message: str) -> None:
    text = "Hello there"
    with pytest.raises(LabelError, match=message) as caught:
        tag_words(text, split_words(text), read_spans(spans, len(text)))
    assert caught.value.kind == kind
