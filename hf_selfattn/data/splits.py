"""Split, deduplicate and fingerprint checked classification data."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from .classification import ClassificationData, Prepared
from .columns import column_values
from .findings import listed
from .formats import ORIGIN

REGRESSION_STRATA = 10
Ints = NDArray[np.int64]


def make_validation(
    data: Prepared, *, fraction: float = 0.1, seed: int = 0, group_column: str | None = None
) -> Prepared:
    """Take a stratified validation split out of train where there is none.

    A class with one row keeps it in train.

    Args:
        fraction: share of the rows of train that goes to validation, between 0 and 1.
        group_column: a kept column; all rows of one group then stay on one side (about ``fraction`` of the rows).
    """
    if "validation" in data.splits:
        return data
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: it must lie between 0 and 1.")
    train = _train_of(data)
    if len(train) < 2:
        raise ValueError(f"train has {len(train)} row(s) (first: {train[0][ORIGIN]}); a validation split needs two.")
    strata = _strata(data, train)
    if group_column is None:
        chosen = _stratified_choice(strata, fraction, np.random.default_rng(seed))
        how = "stratified by label"
    else:
        groups = _groups(train, group_column)
        folds = min(max(2, round(1 / fraction)), len(np.unique(groups)))
        chosen = _group_folds(strata, groups, folds, seed) == 0
        how = f"by '{group_column}': no group stands in both"
    parts = {"train": train.select(np.flatnonzero(~chosen)), "validation": train.select(np.flatnonzero(chosen))}
    others = {name: split for name, split in data.splits.items() if name != "train"}
    note = (
        f"No validation split was given: {chosen.sum()} of the {len(train)} rows of train are used ({how}; {seed=})."
    )
    notes = [note, *_shared_groups(parts, others, group_column)]
    return replace(data, splits=DatasetDict({**parts, **others}), notes=data.notes + notes)


def k_folds(data: Prepared, k: int = 5, seed: int = 0, group_column: str | None = None) -> Iterator[Prepared]:
    """Yield k data sets, each with another stratified k-th of train as its test split.

    Other splits pass through unchanged; see `make_validation` for ``group_column``.
    """
    train = _train_of(data)
    if "test" in data.splits:
        raise ValueError(
            "k-fold makes its test splits from train, and a test split is given. Pass it as extra, or join it."
        )
    if not 2 <= k <= len(train):
        raise ValueError(f"k={k} folds: k must lie between 2 and the number of rows of train ({len(train)}).")
    strata = _strata(data, train)
    if group_column is not None:
        folds = _group_folds(strata, _groups(train, group_column), k, seed)
    else:
        order = np.lexsort((np.random.default_rng(seed).random(len(train)), strata))
        folds = np.empty(len(train), dtype=np.int64)
        folds[order] = np.arange(len(train)) % k  # dealt out stratum by stratum: sizes differ by one at most
    for fold in range(k):
        parts = {
            "train": train.select(np.flatnonzero(folds != fold)),
            **{name: split for name, split in data.splits.items() if name != "train"},
            "test": train.select(np.flatnonzero(folds == fold)),
        }
        yield replace(data, splits=DatasetDict(parts), notes=[*data.notes, f"Fold {fold + 1} of {k} ({seed=})."])


@dataclass
class Duplicates:
    """Rows that repeat another row, each as (index, index of its first twin): inside each split, and of two splits."""

    inside: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    across: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)


def find_duplicates(keys: Mapping[str, Sequence[Hashable]]) -> Duplicates:
    """Find equal keys inside each split and between two splits."""
    first: dict[str, dict[Hashable, int]] = {name: {} for name in keys}
    found = Duplicates()
    for name, rows in keys.items():
        twins = [(index, first[name].setdefault(key, index)) for index, key in enumerate(rows)]
        found.inside[name] = [(index, twin) for index, twin in twins if index != twin]
    for one, other in itertools.combinations(keys, 2):
        pairs = [(index, first[other][key]) for index, key in enumerate(keys[one]) if key in first[other]]
        if pairs:
            found.across[one, other] = pairs
    return found


def text_keys(split: Dataset, columns: Sequence[str]) -> list[Hashable]:
    """Give each row the key that duplicates share: its texts after Unicode NFC and whitespace folding."""
    cells = zip(*(column_values(split, column) for column in columns), strict=True)
    return [
        tuple(" ".join(unicodedata.normalize("NFC", cell).split()) for cell in row)
        if all(isinstance(cell, str) and cell.strip() for cell in row)
        else (id(split), index)
        for index, row in enumerate(cells)
    ]


def deduplicate(
    data: Prepared,
    *,
    inside_evaluation: bool = False,
    keys: Mapping[str, Sequence[Hashable]] | None = None,
    what: str = "text",
) -> Prepared:
    """Drop repeated rows of train, and rows of train that also stand in an evaluation split.

    The first of the twins is kept; the notes count them and name those with different labels.

    Args:
        keys: what twins share, for each row, where the rows are no texts; `what` is said of them.
    """
    if keys is None:
        keys = {name: text_keys(split, _text_columns(split)) for name, split in data.splits.items()}
    duplicates = find_duplicates(keys)
    drop: dict[str, set[int]] = {name: set() for name in keys}
    notes = []
    for name, pairs in duplicates.inside.items():
        if pairs and (name == "train" or inside_evaluation):
            drop[name] |= {index for index, _ in pairs}
            notes.append(f"Dropped {len(pairs)} exact duplicate(s) inside {name}.")
        target = _target_column(data.splits[name])
        if conflicts := find_conflicts(data.splits[name], pairs, target):
            shown = listed(conflicts, len(conflicts))
            notes.append(f"Warning: {name}: {len(conflicts)} duplicate(s) have different {target}s: {shown}.")
    evaluation = set().union(*(set(keys[name]) for name in keys if name != "train"))
    leaked = {index for index, key in enumerate(keys.get("train", [])) if key in evaluation}
    if leaked:
        drop["train"] |= leaked
        notes.append(f"Dropped {len(leaked)} row(s) of train whose {what} stands in an evaluation split.")
    if "train" in keys and len(drop["train"]) == len(keys["train"]):
        raise ValueError(f"all {len(keys['train'])} rows of train also stand in evaluation splits; nothing is left.")
    splits = {
        name: split.select([i for i in range(len(split)) if i not in drop[name]]) if drop[name] else split
        for name, split in data.splits.items()
    }
    notes = notes or ["No exact duplicates were found."]
    return replace(data, splits=DatasetDict(splits), notes=data.notes + notes)


def find_conflicts(split: Dataset, pairs: Sequence[tuple[int, int]], label: str = "label") -> list[str]:
    """List the places of duplicates whose labels differ, as "place = place of its twin"."""
    labels, places = column_values(split, label), column_values(split, ORIGIN)
    return [f"{places[index]} = {places[twin]}" for index, twin in pairs if labels[index] != labels[twin]]


def _target_column(split: Dataset) -> str:
    return "label" if "label" in split.column_names else "transcript"


def _text_columns(split: Dataset) -> list[str]:
    return [name for name in ("text", "text_pair") if name in split.column_names]


def fingerprint(split: Dataset) -> str:
    """Give the sha256 of the inputs and labels (or tags, boxes, transcripts) of a prepared split, in their order."""
    digest = hashlib.sha256()
    known = ("text", "text_pair", "image", "sound", "label", "transcript", "boxes", "box_labels")
    columns = ["tokens", "tags"] if "tokens" in split.column_names else [n for n in known if n in split.column_names]
    for batch in split.with_format(None).select_columns(columns).iter(batch_size=1000):
        for row in zip(*(batch[name] for name in columns), strict=True):
            digest.update(json.dumps([_content_of(value) for value in row]).encode() + b"\n")
    return digest.hexdigest()


def _content_of(value: Any) -> Any:
    """Give the sha256 of a file, wherever it is kept, and any other value as it is."""
    if not isinstance(value, dict):
        return value
    content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return hashlib.sha256(content).hexdigest()


def _train_of(data: ClassificationData) -> Dataset:
    if "train" not in data.splits:
        raise ValueError(f"there is no train split; the splits are {list(data.splits)}.")
    return data.splits["train"]


def _strata(data: ClassificationData, split: Dataset) -> Ints:
    """Give each row a stratum: its class, its rarest label, or its tenth of the regression labels."""
    if "label" not in split.column_names:  # transcripts
        return np.zeros(len(split), dtype=np.int64)
    labels = column_values(split, "label")
    if data.problem == "regression":
        edges = np.quantile(labels, np.linspace(0, 1, REGRESSION_STRATA + 1)[1:-1])
        return np.searchsorted(edges, labels).astype(np.int64)
    if data.problem == "multi_label_classification":
        matrix = np.asarray(labels)  # (rows, C)
        rarity = np.where(matrix > 0, matrix.sum(axis=0), np.inf)
        return np.where(matrix.any(axis=1), rarity.argmin(axis=1), -1).astype(np.int64)
    return np.asarray(labels, dtype=np.int64)


def _stratified_choice(strata: Ints, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose round(fraction * n) rows, at least 1, spread over the strata by largest remainders."""
    rows = len(strata)
    wanted = min(max(1, round(fraction * rows)), rows - 1)
    values, counts = np.unique(strata, return_counts=True)
    room = counts - 1  # every stratum keeps one row for training
    quotas = np.minimum(np.floor(wanted * counts / rows).astype(np.int64), room)
    remainders = wanted * counts / rows - quotas
    for stratum in np.argsort(-remainders, kind="stable"):
        quotas[stratum] += int(quotas[stratum] < room[stratum] and quotas.sum() < wanted)
    if not quotas.any():
        quotas[counts.argmax()] = 1  # every class has one row: one of them must go
    chosen = np.zeros(rows, dtype=np.bool_)
    for value, quota in zip(values, quotas, strict=True):
        chosen[rng.permutation(np.flatnonzero(strata == value))[:quota]] = True
    return chosen


def _groups(split: Dataset, column: str) -> NDArray[Any]:
    if column not in split.column_names:
        raise ValueError(
            f"group_column='{column}' is not in the prepared data, which has {split.column_names}; "
            f"keep it with prepare_classification(…, keep_columns=['{column}'])."
        )
    values = column_values(split, column)
    missing = [split[index][ORIGIN] for index, value in enumerate(values) if value is None or value == ""]
    if missing:
        raise ValueError(f"column '{column}': {len(missing)} row(s) have no group: {listed(missing, len(missing))}.")
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def _group_folds(strata: Ints, groups: NDArray[Any], k: int, seed: int) -> Ints:
    """Assign whole groups to k folds with similar classes (sklearn's `StratifiedGroupKFold`)."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2 or k > n_groups:
        raise ValueError(
            f"{n_groups} group(s) cannot be split into {max(k, 2)} parts; name a column with more groups."
        )
    folds = np.empty(len(strata), dtype=np.int64)
    if k > np.unique(strata, return_counts=True)[1].max():
        strata = np.zeros_like(strata)  # sklearn wants one class with k rows; here no class has
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # rare classes are allowed here
        for fold, (_, held_out) in enumerate(splitter.split(strata, strata, groups)):
            folds[held_out] = fold
    return folds


def _shared_groups(parts: dict[str, Dataset], others: dict[str, Dataset], column: str | None) -> list[str]:
    if column is None:
        return []
    ours = {value for part in parts.values() for value in column_values(part, column)}
    notes = []
    for name, split in others.items():
        shared = ours & set(column_values(split, column) if column in split.column_names else [])
        if shared:
            shown = listed(sorted(map(str, shared)), len(shared))
            notes.append(
                f"Warning: {len(shared)} group(s) of '{column}' stand in train or validation and in {name}: {shown}."
            )
    return notes
