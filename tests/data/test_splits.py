"""Validation splits, folds, duplicates and fingerprints."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_selfattn.data.classification import ClassificationData, prepare_classification
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.splits import deduplicate, find_duplicates, fingerprint, k_folds, make_validation


def data_of(labels: list[Any], groups: list[Any] | None = None, **options: Any) -> ClassificationData:
    columns = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
    if groups is not None:
        columns["author"] = groups
        options["keep_columns"] = ["author"]
    return prepare_classification({"train": Dataset.from_dict(columns)}, **options)


def texts(split: Dataset) -> list[str]:
    return list(split["text"])


def shares(data: ClassificationData, split: str) -> Counter[Any]:
    return Counter(data.splits[split]["label"])


def test_validation_is_stratified_complete_and_repeatable() -> None:
    data = data_of(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    parts = make_validation(data, fraction=0.1, seed=1)
    assert shares(parts, "validation") == {0: 6, 1: 3, 2: 1}
    train, validation = texts(parts.splits["train"]), texts(parts.splits["validation"])
    assert sorted(train + validation) == sorted(texts(data.splits["train"]))
    assert texts(make_validation(data, seed=1).splits["validation"]) == validation
    assert texts(make_validation(data, seed=2).splits["validation"]) != validation
    assert "No validation split was given: 10 of the 100 rows of train" in parts.notes[-1]
    assert make_validation(parts) is parts, "a validation split that is there stays"


@pytest.mark.parametrize(
    ("labels", "size"),
    [(["a", "b"], 1), (["a", "a", "b"], 1), (list("abcdefghij"), 1), (["a"] * 30 + ["b"], 3), (list("aabbccddee"), 1)],
)
def test_tiny_data_and_classes_with_one_member(labels: list[str], size: int) -> None:
    parts = make_validation(data_of(labels))
    assert len(parts.splits["validation"]) == size
    alone = {label for label, count in Counter(labels).items() if count == 1}
    if len(alone) < len(set(labels)):  # otherwise one of the single rows must go
        left = {parts.label_names[index] for index in parts.splits["train"]["label"]}
        assert left == set(labels)


def test_multi_label_and_regression_are_stratified() -> None:
    rare = make_validation(data_of([["common"]] * 80 + [["common", "rare"]] * 20), fraction=0.1)
    assert sum(row[1] for row in rare.splits["validation"]["label"]) == 2
    values = make_validation(data_of([float(i) + 0.5 for i in range(100)]), fraction=0.1)
    assert sorted(int(value // 10) for value in values.splits["validation"]["label"]) == list(range(10))


def test_groups_stay_together() -> None:
    groups = [f"g{i // 5}" for i in range(100)]
    data = data_of(["a", "b"] * 50, groups)
    parts = make_validation(data, fraction=0.2, group_column="author")
    inside = {name: set(split["author"]) for name, split in parts.splits.items()}
    assert not inside["train"] & inside["validation"]
    assert 10 <= len(parts.splits["validation"]) <= 30
    for fold in k_folds(data, 4, group_column="author"):
        assert not set(fold.splits["train"]["author"]) & set(fold.splits["test"]["author"])


def test_groups_with_rare_classes_and_groups_shared_with_test() -> None:
    data = data_of(list("abcdef"), ["1", "1", "2", "2", "3", "3"])
    data.splits["test"] = data.splits["train"].select([0])
    parts = make_validation(data, group_column="author")
    assert sorted(map(len, (parts.splits["train"], parts.splits["validation"]))) == [2, 4]
    assert "1 group(s) of 'author' stand in train or validation and in test: 1." in parts.notes[-1]


def test_validation_errors() -> None:
    data = data_of(["a", "b"], ["x", None])
    with pytest.raises(ValueError, match=r"column 'author': 1 row\(s\) have no group: train\[1\]"):
        make_validation(data, group_column="author")
    with pytest.raises(ValueError, match=r"group_column='autor' is not in .*keep_columns=\['autor'\]"):
        make_validation(data, group_column="autor")
    with pytest.raises(ValueError, match=r"1 group\(s\) cannot be split into 2 parts"):
        make_validation(data_of(["a", "b"], ["x", "x"]), group_column="author")
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_validation(data, fraction=1.5)
    data.splits["train"] = data.splits["train"].select([0])
    with pytest.raises(ValueError, match=r"train has 1 row\(s\) \(first: train\[0\]\)"):
        make_validation(data)
    data.splits["test"] = data.splits.pop("train")
    with pytest.raises(ValueError, match=r"no train split; the splits are \['test'\]"):
        make_validation(data)


def test_folds_are_stratified_and_cover_train_once() -> None:
    data = data_of(["a"] * 50 + ["b"] * 25 + ["c"] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = list(k_folds(data, 5, seed=3))
    assert sorted(text for fold in folds for text in texts(fold.splits["test"])) == sorted(texts(data.splits["train"]))
    for fold in folds:
        assert not set(texts(fold.splits["train"])) & set(texts(fold.splits["test"]))
        assert shares(fold, "test")[0] == 10 and shares(fold, "test")[1] == 5
        assert fold.label_names == data.label_names
    assert sorted(shares(fold, "test")[2] for fold in folds) == [0, 0, 0, 1, 1]
    assert folds[1].notes[-1] == "Fold 2 of 5 (seed=3)."


def test_fold_errors() -> None:
    data = data_of(["a", "b", "a"])
    with pytest.raises(ValueError, match="k=4 folds: k must lie between 2 and"):
        next(k_folds(data, 4))
    data.splits["test"] = data.splits["train"]
    with pytest.raises(ValueError, match="a test split is given"):
        next(k_folds(data, 2))


def naive_duplicates(keys: dict[str, list[Any]]) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    inside = {
        name: [(i, rows.index(row)) for i, row in enumerate(rows) if rows.index(row) < i]
        for name, rows in keys.items()
    }
    names = list(keys)
    across = {
        (one, other): [(i, keys[other].index(row)) for i, row in enumerate(keys[one]) if row in keys[other]]
        for n, one in enumerate(names)
        for other in names[n + 1 :]
    }
    return inside, {pair: rows for pair, rows in across.items() if rows}


def test_duplicates_equal_the_naive_search() -> None:
    rng = np.random.default_rng(0)
    keys = {name: rng.integers(0, 30, size).tolist() for name, size in [("train", 40), ("test", 20), ("more", 7)]}
    found = find_duplicates(keys)
    assert (found.inside, found.across) == naive_duplicates(keys)


def duplicated() -> ClassificationData:
    def rows(pairs: list[tuple[str, str]]) -> Dataset:
        return Dataset.from_dict({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]})

    train = rows([("caf\u00e9  one", "x"), ("cafe\u0301 one ", "y"), ("two", "x"), ("Two", "y"), ("three", "x")])
    return prepare_classification({"train": train, "test": rows([("three", "x"), ("three", "x"), ("four", "y")])})


def test_deduplicate_drops_train_rows_only() -> None:
    data = deduplicate(duplicated())
    assert texts(data.splits["train"]) == ["caf\u00e9  one", "two", "Two"]
    assert texts(data.splits["test"]) == ["three", "three", "four"]
    assert "Dropped 1 exact duplicate(s) inside train." in data.notes
    assert "Dropped 1 row(s) of train whose text stands in an evaluation split." in data.notes
    assert "Warning: train: 1 duplicate(s) have different labels: train[1] = train[0]." in data.notes
    again = deduplicate(duplicated(), inside_evaluation=True)
    assert texts(again.splits["test"]) == ["three", "four"]
    assert deduplicate(again).notes[-1] == "No exact duplicates were found."


def test_deduplicate_looks_at_both_texts_of_a_pair() -> None:
    rows = Dataset.from_dict({"sentence1": ["a", "a", "a"], "sentence2": ["b", "c", "b"], "label": ["x", "y", "x"]})
    assert deduplicate(prepare_classification({"train": rows})).splits["train"]["text_pair"][:] == ["b", "c"]


def test_deduplicate_refuses_to_empty_train() -> None:
    data = duplicated()
    data.splits["test"] = data.splits["train"]
    with pytest.raises(ValueError, match="all 5 rows of train also stand in evaluation splits"):
        deduplicate(data)


def test_fingerprint_is_stable_and_sees_text_label_and_order() -> None:
    split = data_of(["a", "b"]).splits["train"]
    known = hashlib.sha256(b'["text 0", 0]\n["text 1", 1]\n').hexdigest()
    assert fingerprint(split) == fingerprint(split.remove_columns(ORIGIN)), "the place does not count"
    assert fingerprint(split) == known
    others = [data_of(["b", "a"]).splits["train"], split.select([1, 0]), split.select([0])]
    others.append(
        prepare_classification({"train": Dataset.from_dict({"text": ["text 0", "x"], "label": ["a", "b"]})}).splits[
            "train"
        ]
    )
    assert len({fingerprint(other) for other in [split, *others]}) == 5
