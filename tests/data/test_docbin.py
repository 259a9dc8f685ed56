"""DocBin files of spaCy, where spaCy is installed, and what is said where it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from hf_selfattn.data import load_splits, prepare_classification, prepare_tagging
from hf_selfattn.data.formats import ORIGIN


def docbin(path: Path, docs: list[tuple[str, list[tuple[int, int, str]], dict[str, float]]], group: str = "") -> Path:
    spacy = pytest.importorskip("spacy")
    tokens = pytest.importorskip("spacy.tokens")
    nlp, store = spacy.blank("en"), tokens.DocBin(store_user_data=True)
    for text, entities, cats in docs:
        doc = nlp(text)
        spans = [doc.char_span(start, end, label=kind) for start, end, kind in entities]
        if group:
            doc.spans[group] = spans
        else:
            doc.ents = spans
        doc.cats = cats
        store.add(doc)
    store.to_disk(path)
    return path


@pytest.mark.parametrize("group", ["", "sc"])
def test_entities_or_the_only_group_of_spans(tmp_path: Path, group: str) -> None:
    path = docbin(tmp_path / "train.spacy", [("Mira met Bo.", [(0, 4, "PER")], {}), ("It broke.", [], {})], group)
    data = prepare_tagging(load_splits(train=path))
    assert data.splits["train"]["tags"][:] == [[1, 0, 0, 0], [0, 0, 0]]
    assert data.splits["train"][ORIGIN][:] == [f"{path}[0]", f"{path}[1]"]
    assert "train: read as a spaCy DocBin: 2 documents, 1 spans." in data.notes


def test_classes(tmp_path: Path) -> None:
    docs: list[Any] = [("It broke.", [], {"good": 0.0, "bad": 1.0}), ("I like it.", [], {"good": 1.0, "bad": 0.0})]
    data = prepare_classification(load_splits(train=docbin(tmp_path / "one.spacy", docs)))
    assert data.problem == "single_label_classification" and data.splits["train"]["label"][:] == [0, 1]
    docs.append(("Well.", [], {"good": 1.0, "bad": 1.0}))
    data = prepare_classification(load_splits(train=docbin(tmp_path / "several.spacy", docs)))
    assert data.splits["train"]["label"][:] == [[1, 0], [0, 1], [1, 1]]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.spacy"
    path.write_bytes(b"no DocBin")
    missing = r"a\.spacy: DocBin files need spaCy: pip install spacy; or export JSONL"
    damaged = r"a\.spacy: the file is damaged or no DocBin"
    with pytest.raises(ValueError, match=damaged if importlib.util.find_spec("spacy") else missing):
        load_splits(train=path)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    path = docbin(tmp_path / "o.spacy", [("A b c", [(0, 1, "X"), (0, 3, "Y")], {})], "sc")
    with pytest.raises(ValueError, match=r"o\.spacy\[0\] \(\[0, 1, 'X'\] \('A'\) and \[0, 3, 'Y'\]"):
        prepare_tagging(load_splits(train=path))
