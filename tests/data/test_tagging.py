"""All sources to one form, with every bad row, broken tag and cut word named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from pages import fetch

from hf_selfattn.data import by_document, fingerprint, load_splits, prepare_tagging
from hf_selfattn.data.formats import ORIGIN

ROOT = Path(__file__).parents[2]
CONLL2003 = ROOT / ".data" / "conll2003"
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TOKENS = [["Ann", "Lee", "saw", "Rome"], ["Rome", "slept"]]
TAGS = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
CONLL = "Ann B-PER\nLee I-PER\nsaw O\nRome B-LOC\n\nRome B-LOC\nslept O\n"


def tagged(tokens: list[Any], tags: list[Any], **columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"tokens": tokens, "ner_tags": tags, **columns})


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def source(kind: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the same two sentences as one of the sources; return the arguments of load_splits and prepare_tagging."""
    if kind == "conll":
        (folder / "a.txt").write_text(CONLL)
        return {"train": folder / "a.txt"}, {}
    if kind == "other columns":
        lines = [f"1\t{tag}\t{token}\tx" for token, tag in zip(TOKENS[0], TAGS[0], strict=True)]
        lines += [""] + [f"2\t{tag}\t{token}\ty" for token, tag in zip(TOKENS[1], TAGS[1], strict=True)]
        (folder / "a.conll").write_text("\n".join(lines))
        return {"train": folder / "a.conll"}, {"token_column": 2, "tag_column": "-3"}
    if kind == "json":
        rows = [{"tokens": tokens, "tags": tags} for tokens, tags in zip(TOKENS, TAGS, strict=True)]
        return {"train": json_lines(folder / "a.jsonl", rows)}, {}
    if kind == "spans":
        rows = [
            {"text": "Ann Lee saw Rome", "spans": [{"start": 0, "end": 7, "label": "PER"}, _span(12, 16, "LOC")]},
            {"text": "Rome slept", "spans": [_span(0, 4, "LOC")]},
        ]
        return {"train": json_lines(folder / "a.jsonl", rows)}, {}
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]  # the order of CoNLL on the hub
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    return {"dataset": Dataset.from_dict({"tokens": TOKENS, "ner_tags": TAGS}, features=features)}, {}


def _span(start: int, end: int, label: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


@pytest.mark.parametrize("kind", ["conll", "other columns", "json", "spans", "hub"])
def test_every_source_becomes_one_form(kind: str, tmp_path: Path) -> None:
    files, options = source(kind, tmp_path)
    data = prepare_tagging(load_splits(**files), **options)
    split = data.splits["train"]
    assert data.label_names == NAMES and data.entity_types == ["LOC", "PER"]
    assert split["tokens"][:] == TOKENS
    assert [[NAMES[tag] for tag in row] for row in split["tags"]] == TAGS
    assert split.features["tags"].feature == ClassLabel(names=NAMES)
    assert split["sentence"][:] == [0, 0] and len(set(split["document"])) == 2
    wanted = {"tokens", "tags", "document", "sentence", ORIGIN} | ({"text", "offsets"} if kind == "spans" else set())
    assert set(split.column_names) == wanted
    assert any(note.startswith("Tagging scheme: IOB2") for note in data.notes)
    if kind == "spans":
        assert split["offsets"][0] == [[0, 3], [4, 7], [8, 11], [12, 16]]


def test_the_form_does_not_depend_on_the_source(tmp_path: Path) -> None:
    prints = set()
    for kind in ("conll", "json", "spans", "hub"):
        files, options = source(kind, tmp_path)
        prints.add(fingerprint(prepare_tagging(load_splits(**files), **options).splits["train"]))
    assert len(prints) == 1


def test_documents_of_a_column_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-DOCSTART- O\n\nA B-X\n\nB O\n\n-DOCSTART- O\n\nC O\n")
    split = prepare_tagging(load_splits(train=tmp_path / "a.txt")).splits["train"]
    assert split["document"][:] == [f"{tmp_path}/a.txt:1"] * 2 + [f"{tmp_path}/a.txt:7"]
    assert split["sentence"][:] == [0, 1, 0]
    assert by_document(split) == [[0, 1], [2]]
    assert by_document(split.select([2, 1, 0])) == [[0], [2, 1]]


def test_documents_by_a_column_and_by_docstart_rows() -> None:
    tags = [["B-X"], ["O"], ["O"]]
    split = prepare_tagging({"train": tagged([["a"], ["b"], ["c"]], tags, doc_id=[5, 6, 5])}).splits["train"]
    assert by_document(split) == [[0, 2], [1]] and split["sentence"][:] == [0, 0, 1]
    rows = [["-DOCSTART-"], ["a"], ["-DOCSTART-"], ["b"], ["c"]]
    data = prepare_tagging({"train": tagged(rows, [["O"], ["B-X"], ["O"], ["O"], ["O"]])})
    assert by_document(data.splits["train"]) == [[0], [1, 2]]
    assert data.splits["train"][ORIGIN][:] == ["train[1]", "train[3]", "train[4]"]


def test_scheme_is_said_and_broken_tags_are_repaired_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A S-X\nB O\n\nC B-X\nD O\n")
    splits = load_splits(train=tmp_path / "a.txt")
    data = prepare_tagging(splits)
    assert data.splits["train"]["tags"][:] == [[1, 0], [1, 0]]
    text = "\n".join(data.notes)
    assert "Tagging scheme: BIOES (the tags begin with B-, S-), read as IOB2." in text
    assert (
        f"Repaired: train: the entity of type 'X' is not closed (read as ending here): 1 place(s), {tmp_path}/a.txt:4"
        in text
    )
    with pytest.raises(ValueError, match=r"is not closed.*a\.txt:4.*\nSet on_broken_tag='repair'"):
        prepare_tagging(splits, on_broken_tag="error")


def test_types_come_from_declared_names_or_entity_types() -> None:
    train = tagged([["a", "b"]], [[1, 0]])
    with pytest.raises(ValueError, match=r"tags are numbers without names; give tag_names="):
        prepare_tagging({"train": train})
    data = prepare_tagging({"train": train}, tag_names=["O", "B-X", "I-X", "B-Y"])
    assert data.entity_types == ["X", "Y"]
    data = prepare_tagging({"train": tagged([["a"]], [["B-X"]])}, entity_types=["Z", "X"])
    assert data.label_names == ["O", "B-X", "I-X", "B-Z", "I-Z"]


GOOD = ([["a", "b"]], [["B-X", "O"]])
# name: (tokens, tags, the error)
BAD_ROWS: dict[str, tuple[list[Any], list[Any], str]] = {
    "unequal": (
        [["a", "b"]],
        [["O"]],
        r"'tokens' and 'ner_tags' have unequal lengths: 1 row\(s\), test\[0\] \(2 words, 1 tags\)",
    ),
    "unknown type": ([["a", "b"]], [["O", "B-Y"]], r"'Y' is none of \['X'\].*test\[0\] \(word 2, 'b'\)"),
    "unknown tag": ([["a"]], [["E-X"]], r"'E-X' is none of the scheme IOB2.*test\[0\] \(word 1, 'a'\)"),
    "empty": ([["a"], []], [["O"], []], r"the sentence has no words: 1 row\(s\), test\[1\]"),
    "no tokens": ([None, ["a"]], [["O"], ["O"]], r"no list of strings.*test\[0\]"),
    "no tags": ([["a"], ["b"]], [None, ["O"]], r"the tags are no list.*test\[0\]"),
    "blank tag": ([["a"]], [[" "]], r"a word has no tag.*test\[0\]"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_named_or_dropped(kind: str) -> None:
    tokens, tags, message = BAD_ROWS[kind]
    splits = {"train": tagged(*GOOD), "test": tagged(tokens + [["z"]], tags + [["O"]])}
    with pytest.raises(ValueError, match=message):
        prepare_tagging(splits)
    data = prepare_tagging(splits, on_bad_row="drop")
    assert data.splits["test"]["tokens"][-1] == ["z"]
    assert len(data.splits["test"]) == len(tokens)  # one was bad
    assert any(note.startswith("Dropped test") for note in data.notes)


def test_column_file_names_the_line_of_a_bad_tag(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a B-X\n")
    (tmp_path / "test.txt").write_text("a O\n\nb O\nc B-Y\n")
    with pytest.raises(ValueError, match=rf"'Y' is none of \['X'\]: 1 row\(s\), {tmp_path}/test.txt:4"):
        prepare_tagging(load_splits(train=tmp_path / "train.txt", test=tmp_path / "test.txt"))


SPAN_ROWS: dict[str, tuple[list[Any], str]] = {
    "cuts": (
        [_span(0, 3, "X")],
        r"a span cuts a word: 1 row.*a\.jsonl:2 \(\[0, 3, 'X'\] \('Rom'\) in 'Rome'\).*\nSet on_cut_word='widen'",
    ),
    "overlap": ([_span(0, 4, "X"), _span(0, 9, "Y")], r"overlap.*a\.jsonl:2"),
    "outside": ([_span(0, 99, "X")], r"a\.jsonl:2 \(\[0, 99, 'X'\] in 9 characters\).*\nSpans count characters"),
}


@pytest.mark.parametrize("kind", SPAN_ROWS)
def test_bad_spans_are_named_or_dropped(kind: str, tmp_path: Path) -> None:
    spans, message = SPAN_ROWS[kind]
    rows = [{"text": "in Rome", "spans": [_span(3, 7, "X")]}, {"text": "Rome fell", "spans": spans}]
    splits = load_splits(train=json_lines(tmp_path / "a.jsonl", rows))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        prepare_tagging(splits)
    assert len(prepare_tagging(splits, on_bad_row="drop").splits["train"]) == 1
    if kind == "cuts":
        data = prepare_tagging(splits, on_cut_word="widen")
        assert data.splits["train"]["tags"][1] == [1, 0]
        assert "A span that cuts a word is widened to the whole word." in data.notes


def test_chinese_characters_are_words_and_triples_are_spans(tmp_path: Path) -> None:
    rows = [{"text": "王明在北京", "label": [[0, 2, "PER"], [3, 5, "LOC"]]}, {"text": " ", "label": []}]
    splits = load_splits(train=json_lines(tmp_path / "a.jsonl", rows))
    with pytest.raises(ValueError, match=r"text is empty.*a\.jsonl:2"):
        prepare_tagging(splits)
    split = prepare_tagging(splits, on_bad_row="drop").splits["train"]
    assert split["tokens"][0] == list("王明在北京") and split["tags"][0] == [3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_column": "word"}, r"train\[0\]: there is no column 'word' \(token_column\); the columns are"),
        ({"tag_column": 7}, "there is no column 7 .tag_column.; .*numbered 0 to 1"),
        ({"tag_column": "tokens"}, "token_column and tag_column must differ"),
        ({"document_column": "file"}, "no column 'file' .document_column."),
        ({"scheme": "BIO"}, "scheme='BIO' is unknown"),
        ({"on_cut_word": "drop"}, "on_cut_word='drop' is unknown; it is one of error, widen"),
        ({"keep_columns": ["pos"]}, r"keep_columns=\['pos'\]"),
        ({"text_column": "t", "tag_column": "x"}, "not both"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_tagging({"train": tagged(*GOOD)}, **options)


def test_splits_without_use() -> None:
    with pytest.raises(ValueError, match="train: the split has no rows"):
        prepare_tagging({"train": tagged([], [])})
    with pytest.raises(ValueError, match="no word is in an entity; all tags are 'O'"):
        prepare_tagging({"train": tagged([["a"]], [["O"]])})
    with pytest.raises(ValueError, match=r"no tokens column is known among the columns found: \['x'\]"):
        prepare_tagging({"train": Dataset.from_dict({"x": ["a"]})})
    with pytest.raises(ValueError, match="test: no good row is left of 1"):
        prepare_tagging({"train": tagged(*GOOD), "test": tagged([["a"]], [["B-Y"]])}, on_bad_row="drop")


def test_columns_can_be_kept() -> None:
    train = tagged([["a"], [], ["c"]], [["B-X"], [], ["O"]], source=["one", "two", "three"])
    split = prepare_tagging({"train": train}, keep_columns=["source"], on_bad_row="drop").splits["train"]
    assert split["source"][:] == ["one", "three"]


@pytest.mark.slow
def test_the_counts_of_conll2003() -> None:
    fetch("conll2003")
    data = prepare_tagging(
        load_splits(**{name: CONLL2003 / f"{name}.txt" for name in ("train", "validation", "test")})
    )
    begins = {index for index, name in enumerate(data.label_names) if name.startswith("B-")}
    counts = {
        name: (len(split), sum(tag in begins for row in split["tags"] for tag in row), len(by_document(split)))
        for name, split in data.splits.items()
    }
    assert counts == {"train": (14041, 23499, 946), "validation": (3250, 5942, 216), "test": (3453, 5648, 231)}
    assert data.entity_types == ["LOC", "MISC", "ORG", "PER"]
    assert not any("Repaired" in note for note in data.notes)


WORDS = [("Mira", "B-PER"), ("went", "O"), ("al", "O"), ("Cairo", "B-LOC")]


def column_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([*lines, "", *lines, ""]), encoding="utf-8")
    return path


COLUMN_FILES = {
    "CoNLL-U": [f"{i}\t{word}\t{word}\tX\t_\t_\t0\t_\t_\t{tag}" for i, (word, tag) in enumerate(WORDS, 1)],
    "numbers from 0": [f"{i} {word} {tag}" for i, (word, tag) in enumerate(WORDS)],
    "numbers that go on": [f"{i} {word} {tag}" for i, (word, tag) in enumerate(WORDS, 17)],
}


@pytest.mark.parametrize("case", COLUMN_FILES)
@pytest.mark.parametrize("given", [{}, {"token_column": 1}])
def test_numbers_of_words_are_no_words(tmp_path: Path, case: str, given: dict[str, Any]) -> None:
    lines = COLUMN_FILES[case]
    if case == "CoNLL-U":  # a range beside its words, and an empty node
        rest = "\tX" + "\t_" * 5 + "\tB-LOC"
        lines = [*lines[:2], f"3-4\tto Cairo\tx{rest}", lines[2], f"3.1\tgone\tgo{rest}", lines[3]]
    path = column_file(tmp_path / "a.conllu", lines)
    data = prepare_tagging(load_splits(train=path), **given)
    assert data.splits["train"]["tokens"][:] == [[word for word, _ in WORDS]] * 2
    tags = [[data.label_names[tag] for tag in row] for row in data.splits["train"]["tags"]]
    assert tags == [[tag for _, tag in WORDS]] * 2
    assert any("word numbers '0'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{tag}\t{word}" for word, tag in WORDS], "column 0 holds tags"),
        ([f"news/01\t0\t{word}\t{tag}" for word, tag in WORDS], "column 0 holds one and the same text"),
    ],
)
def test_a_first_column_that_holds_no_words_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    path = column_file(tmp_path / "a.conll", lines)
    with pytest.raises(ValueError, match=f"a.conll:1: {message}.*token_column="):
        prepare_tagging(load_splits(train=path))


def test_tags_without_types_in_every_split(tmp_path: Path) -> None:
    files = {
        "train": column_file(tmp_path / "a.conll", ["Mira B", "Okafor I", "met O", "Bo B"]),
        "test": column_file(tmp_path / "b.conll", ["Bo B", "slept O"]),
    }
    data = prepare_tagging(load_splits(**files))
    assert data.label_names == ["O", "B-_", "I-_"] and data.splits["test"]["tags"][0] == [1, 0]
    assert "Tags are read so: B as B-_, I as I-_." in data.notes
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "PER-B", "PER-I"]))})
    named = Dataset.from_dict({"tokens": [["Mira", "met"]], "tags": [[1, 0]]}, features=features)
    assert prepare_tagging({"train": named}).entity_types == ["PER"]


@pytest.mark.parametrize("hidden", [[-1], [None], [""], []])
def test_a_test_split_without_tags_is_not_scored(hidden: list[Any]) -> None:
    rows = [hidden * len(tokens) for tokens in TOKENS]
    splits = {"train": tagged(TOKENS, TAGS), "test": tagged(TOKENS, rows)}
    data = prepare_tagging(splits)
    assert list(data.splits) == ["train"]
    assert "test: no word has a tag (all are -1 or empty), so it is not scored." in data.notes
    for name in ("train", "validation"):
        with pytest.raises(ValueError, match=f"{name}.*(a word has no tag|unequal lengths|without names)"):
            prepare_tagging({**splits, name: splits["test"]})


def test_hidden_tags_of_a_data_set_with_names_are_not_scored() -> None:
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))})
    shown = Dataset.from_dict({"tokens": TOKENS, "ner_tags": TAGS}, features=features)
    hidden = Dataset.from_dict({"tokens": TOKENS, "ner_tags": [[-1] * len(row) for row in TAGS]}, features=features)
    data = prepare_tagging({"train": shown, "test": hidden})
    assert list(data.splits) == ["train"] and data.label_names == NAMES
