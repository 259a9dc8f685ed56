"""What the labels of a column are: the kind of problem, their names in order, and each value as a training target."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from datasets import ClassLabel, Dataset

from .columns import column_values

LABEL_PROBLEMS = ("single_label_classification", "multi_label_classification", "regression", "ordinal")
SEPARATORS = ("|", ";", ",", "#")
LEARNED = ("train", "validation")  # the splits that need labels
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE)
LIST = re.compile(r"\s*(\[.*\]|\(.*\)|\{.*\}|set\(\))\s*", re.DOTALL)  # a list, tuple or set written as text
ITEM = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,\s"'][^,]*)""")
BARE_ITEMS = {"null": None, "none": None, "nan": None, "true": True, "false": False}
KINDS_OF_LABELS: dict[type, str] = {str: "texts", bool: "true and false", int: "whole numbers", float: "numbers"}

LabelTarget = int | float | list[float]


class LabelError(ValueError):
    """One value that is no valid label: kind of mistake, message that all such values share, detail of this one."""

    def __init__(self, kind: str, message: str, detail: str = "") -> None:
        super().__init__(f"{message}: {detail}" if detail else message)
        self.kind, self.message, self.detail = kind, message, detail


@dataclass(frozen=True)
class LabelScheme:
    """How the values of a label column become targets."""

    problem: str  # one of `LABEL_PROBLEMS`
    names: list[str]  # C, in the order of the targets; for regression the name of the one value
    whole: bool = False  # all labels are whole numbers, so that "1.0" is the label "1"
    numeric: bool = False  # all labels are numbers, so that "nan" is no label
    indices: bool = False  # integers are positions in `names`
    multi_hot: bool = False  # a list is a row of C zeros and ones rather than a list of labels
    listed: bool = False  # a text cell is a list, such as "['a', 'b']" (multi-label only)
    separator: str = ""  # between the labels of a text cell (multi-label only)
    notes: list[str] = field(default_factory=list)  # what was detected, for the user

    def names_of(self, target: LabelTarget) -> list[str]:
        """List the labels of the target of a classification."""
        if isinstance(target, list):
            return [name for name, on in zip(self.names, target, strict=True) if on]
        return [self.names[int(target)]]


def read_scheme(
    splits: Mapping[str, Dataset],
    column: str,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    separator: str | None = None,
) -> LabelScheme:
    """Find out the problem and the label names, from train (from all splits where there is no train)."""
    if separator is not None and problem not in (None, "multi_label_classification"):
        raise ValueError(f"label_separator={separator!r} separates the labels of a cell, and a {problem} has one.")
    problem = problem if separator is None else "multi_label_classification"
    if problem is not None and problem not in LABEL_PROBLEMS:
        raise ValueError(f"problem='{problem}' is unknown; it is one of {', '.join(LABEL_PROBLEMS)}, or leave it out.")
    sources = [splits["train"]] if "train" in splits else list(splits.values())
    present = [value for split in sources for value in named_values(split, column) if not is_missing(value)]
    listed = problem in (None, "multi_label_classification") and _are_lists(present, column)
    if listed:
        present = [read_list(value) for value in present]
    numeric, whole = _are_numbers(present)
    notes = [f"Problem: {problem} (as set, column '{column}')."]
    if problem is None:
        problem, reason = _detect_problem(present, numeric, whole)
        notes = [f"Problem: {problem} (detected: {reason}, column '{column}'). Set problem=… to override."]
        if problem == "single_label_classification":
            separator, said = _combinations(present, column, label_names)
            notes = said if separator else notes + said
            problem = "multi_label_classification" if separator else problem
    notes += ["The lists of labels are written as text."] if listed else []
    scheme = LabelScheme(problem, [], whole=whole, numeric=numeric, listed=listed, notes=notes)
    if problem == "regression":
        if label_names is not None and len(label_names) != 1:
            raise ValueError(f"label_names={list(label_names)}: regression predicts one value, so it takes one name.")
        return replace(scheme, names=list(label_names or [column]))
    if problem == "multi_label_classification":
        scheme = _multi_label_scheme(scheme, present, label_names, separator)
    declared = next((names for split in sources if (names := class_names(split.features[column]))), None)
    return _with_names(scheme, present, declared, label_names)


def class_names(feature: Any) -> list[str]:
    """List the names of a `ClassLabel`, or of a list of them; of any other feature none."""
    inner = getattr(feature, "feature", feature)
    return list(inner.names or []) if isinstance(inner, ClassLabel) else []


def class_name(value: Any, names: list[str]) -> Any:
    """Name the number of a class, or each of a list; None for what is no such number."""
    if isinstance(value, list):
        return [class_name(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def named_values(split: Dataset, column: str) -> list[Any]:
    """Read a label column; the integers of a `ClassLabel` as names, its -1 as None."""
    names = class_names(split.features[column])
    values = [_plain(value) for value in column_values(split, column)]
    return [class_name(value, names) for value in values] if names else values


def encode_label(scheme: LabelScheme, value: Any) -> LabelTarget:
    """Turn one value into its target, or raise a `LabelError`: int, C floats (multi-label) or float (regression)."""
    value = _plain(value)
    multi = scheme.problem == "multi_label_classification"
    if is_missing(value) and not (multi and isinstance(value, str)):  # an empty cell is an empty set of labels
        raise LabelError("label_missing", "no label (empty, null or NaN)")
    if scheme.problem == "regression":
        return _encode_number(value)
    if not multi:
        return _label_index(scheme, value)
    labels = read_list(value) if scheme.listed else _split_labels(value, scheme.separator)
    if scheme.multi_hot:
        return _encode_multi_hot(scheme, labels)
    target = [0.0] * len(scheme.names)
    for label in labels:
        if is_missing(label):
            raise LabelError("label_missing", "an empty label inside the list of labels")
        target[_label_index(scheme, label)] = 1.0
    return target


def read_list(value: Any) -> list[Any]:
    """Read a list of labels that may be written as text: of JSON, Python, numpy or Postgres; a blank text is empty."""
    if isinstance(value, list) or is_missing(value):
        return value or [] if isinstance(value, list) else []
    if not isinstance(value, str) or not LIST.fullmatch(value):
        raise LabelError("label_type", "the label is no list such as ['a', 'b'], as the others are")
    items = [match[1].strip() for match in ITEM.finditer(value.strip()[1:-1])] if value.strip() != "set()" else []
    if len(items) == 1 and all(map(NUMBER.fullmatch, items[0].split())):
        items = items[0].split()  # numpy writes [1 0 1]
    return [_read_item(item) for item in items]


def _read_item(item: str) -> Any:
    if item[0] in "\"'" and item[-1] == item[0] and len(item) > 1:
        try:
            return json.loads(item, strict=False)
        except json.JSONDecodeError:
            return re.sub(r"\\(.)", r"\1", item[1:-1])
    if NUMBER.fullmatch(item):
        return int(item) if re.fullmatch(r"[+-]?\d+", item) else float(item)
    return BARE_ITEMS.get(item.lower(), item)


def _are_lists(present: list[Any], column: str) -> bool:
    """Tell whether the cells are lists written as text; one bare word in brackets is none by itself."""
    texts = [value for value in present if isinstance(value, str)]
    lists = [text for text in texts if LIST.fullmatch(text)]
    if dictionaries := [text for text in lists if re.search(r"[\"']\s*:", text)]:
        raise ValueError(
            f"column '{column}': labels such as {dictionaries[0]!r} are dictionaries. Write the names of the labels "
            "that hold, such as ['a', 'b'], or one column of 0 and 1 per label (label_column=[…])."
        )
    if all(read_list(text) == [text.strip()[1:-1].strip()] for text in lists):
        return False
    if others := [value for value in present if value not in lists]:
        raise ValueError(
            f"column '{column}': labels such as {lists[0]!r} are lists, and {others[0]!r} is none. Write all labels "
            "as lists, or set problem=single_label_classification to read each cell as one class."
        )
    return True


def _combinations(present: list[Any], column: str, names: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Find the separator of several labels in a cell, or say that labels hold one.

    It is one where the parts of at least half are labels elsewhere, and some stands alone; where none stands alone,
    or the parts are numbers, it is refused.
    """
    texts = dict.fromkeys(value for value in present if isinstance(value, str) and value not in (names or ()))
    warnings = []
    for mark in SEPARATORS:
        parts = {text: {part.strip() for part in text.split(mark) if part.strip()} for text in texts}
        held = [text for text in texts if len(parts[text]) > 1]
        if not held:
            continue
        counts = Counter(part for found in parts.values() for part in found) + Counter(names or ())
        known = [text for text in held if all(counts[part] > 1 or part in (names or ()) for part in parts[text])]
        alone = {text.strip() for text in [*texts, *(names or ())]}
        how = f"column '{column}': {len(held)} different labels hold '{mark}', such as '{held[0]}'"
        if 2 * len(known) < len(held):
            warnings.append(f"Warning: {how}; each is one class. label_separator='{mark}' reads several labels.")
            continue
        if alone.isdisjoint(part for text in held for part in parts[text]) or _are_numbers([*parts[held[0]]])[0]:
            raise ValueError(
                f"{how}, and their parts stand in other labels, too. Set label_separator='{mark}' to read several "
                "labels in a cell, or problem=single_label_classification to read each cell as one class; numbers are "
                "written with a decimal point."
            )
        return mark, [
            f"Problem: multi_label_classification (detected: {how}, and their parts stand alone elsewhere). Set "
            "problem=single_label_classification to read each cell as one class."
        ]
    return None, warnings


def _plain(value: Any) -> Any:
    """Return decimals as floats, and bytes, which some Parquet files hold, as text."""
    if isinstance(value, Decimal):
        return float(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def is_missing(value: Any) -> bool:
    """Tell whether a cell holds nothing: None, NaN, or text without a visible character."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_no_answer(value: Any) -> bool:
    """Tell whether a cell, or each of its items, holds nothing or the -1 of a hidden label."""
    if isinstance(value, list):
        return bool(value) and all(map(is_no_answer, value))
    return is_missing(value) or bool(re.fullmatch(r"(.*=)?\s*(-1|-1\.0+|None)?\s*", str(value)))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Give a sorting key in which "2" stands before "10" and case decides last."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def label_twins(names: Iterable[str]) -> list[list[str]]:
    """List the groups of names that differ only in case, spaces or Unicode form ("Pos", "pos ")."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def degenerate(scheme: LabelScheme, targets: Iterable[LabelTarget]) -> str:
    """Say why these targets teach nothing (one class only, one value only), or return ""."""
    counts = Counter(tuple(target) if isinstance(target, list) else target for target in targets)
    if len(counts) != 1:
        return "" if counts else "no row has a usable label"
    target, rows = next(iter(counts.items()))
    if scheme.problem == "regression":
        return f"all {rows} labels are {target}"
    if isinstance(target, tuple):
        return f"all {rows} rows have the same labels {scheme.names_of(list(target))}"
    return f"there is one class only: '{scheme.names_of(target)[0]}' ({rows} rows)"


def _are_numbers(values: list[Any]) -> tuple[bool, bool]:
    """Tell whether all values are numbers, and whether they are whole; what is not finite does not count."""
    numbers = [_number(value) for value in values]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    numeric = bool(finite) and None not in numbers
    return numeric, numeric and all(number.is_integer() for number in finite)


def _detect_problem(present: list[Any], numeric: bool, whole: bool) -> tuple[str, str]:
    if any(isinstance(value, list) for value in present):
        return "multi_label_classification", "the labels are lists"
    if numeric and not whole:
        return "regression", "the labels are numbers with fractions"
    if numeric and any(isinstance(value, float) for value in present):
        return "single_label_classification", "the labels are floats, but whole numbers"
    kinds = sorted({KINDS_OF_LABELS.get(type(value), type(value).__name__) for value in present}) or ["nothing"]
    return "single_label_classification", f"the labels are {'whole numbers' if whole else ' and '.join(kinds)}"


def _multi_label_scheme(
    scheme: LabelScheme, present: list[Any], names: Sequence[str] | None, separator: str | None
) -> LabelScheme:
    lists = [value for value in present if isinstance(value, list)]
    if lists:
        return _with_multi_hot(scheme, lists, names)
    texts = [value for value in present if isinstance(value, str)]
    marks = SEPARATORS if separator is None else (separator,)
    counts = {mark: sum(mark in text for text in texts) for mark in marks}
    separator = max(marks, key=counts.__getitem__)
    if not counts[separator]:
        return _noted(scheme, f"No cell holds a separator ({' '.join(marks)}): each has one label.")
    scheme = _noted(scheme, f"Labels in a cell are separated by '{separator}'.", separator=separator)
    return _with_multi_hot(scheme, [_split_labels(text, separator) for text in texts], names)


def _with_multi_hot(scheme: LabelScheme, lists: list[list[Any]], names: Sequence[str] | None) -> LabelScheme:
    """Find zeros and ones, equally many in each row; two, repeats or floats show that they are no sets of labels."""
    width = len(lists[0])
    if any(len(row) != width for row in lists) or (names is not None and len(names) != width):
        return scheme
    if any(read_bit(item) is None for row in lists for item in row):
        return scheme
    floats = any(isinstance(item, float) for item in lists[0])
    if not (floats or width == 2 or any(len(set(row)) < len(row) for row in lists)):
        return scheme
    return _noted(scheme, "The lists are read as rows of zeros and ones, one per label.", multi_hot=True)


def read_bit(item: Any) -> float | None:
    """Read 0 or 1, whatever it is written as; None for anything else."""
    if isinstance(item, str):
        item = BARE_ITEMS.get(item.strip().lower(), item)
    number = float(item) if isinstance(item, bool) else _number(item)
    return number if number in (0, 1) else None


def _with_names(
    scheme: LabelScheme, present: list[Any], declared: list[str] | None, given: Sequence[str] | None
) -> LabelScheme:
    if scheme.multi_hot:
        width = len(_split_labels(present[0], scheme.separator))
        return replace(scheme, names=list(given or declared or map(str, range(width))))
    if scheme.problem == "multi_label_classification":
        labels = [item for value in present for item in _split_labels(value, scheme.separator)]
        present = [item for item in labels if not is_missing(item)]
        numeric, whole = _are_numbers(present)
        scheme = replace(scheme, numeric=numeric, whole=whole)
    labels = [item for item in present if not isinstance(item, (list, dict)) and _is_label(item, scheme)]
    observed = {_name(item, scheme) for item in labels}
    if given is not None:
        return _with_given_names(scheme, observed, list(given))
    if declared is not None:
        return replace(scheme, names=declared)
    if scheme.problem == "ordinal" and not scheme.numeric:
        raise ValueError(
            f"problem='ordinal': the labels {sorted(observed)[:10]} are not numbers, so their order is unknown. "
            "Give label_names from the lowest to the highest."
        )
    names = sorted(observed, key=natural_key)
    return replace(scheme, names=sorted(names, key=float) if scheme.numeric else names)


def _with_given_names(scheme: LabelScheme, observed: set[str], given: list[str]) -> LabelScheme:
    wrong = [name for name in given if not isinstance(name, str) or is_missing(name)]
    twice = [name for name, count in Counter(given).items() if count > 1]
    if wrong or twice or not given:
        raise ValueError(f"label_names={given}: the names must be non-empty, different texts.")
    positions = {str(index) for index in range(len(given))}
    if observed and not observed & set(given) and observed <= positions:
        return _noted(scheme, "The labels are positions (from 0) in label_names.", names=given, indices=True)
    return replace(scheme, names=given)


def _noted(scheme: LabelScheme, note: str, **changes: Any) -> LabelScheme:
    return replace(scheme, notes=[*scheme.notes, note], **changes)


def _split_labels(value: Any, separator: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(separator)] if separator else [value]
        return [part for part in parts if part.strip()]
    return [value]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    return float(value) if not isinstance(value, str) or NUMBER.fullmatch(value) else None


def _is_label(value: Any, scheme: LabelScheme) -> bool:
    number = _number(value)
    return number is None or math.isfinite(number) or not scheme.numeric


def _name(value: Any, scheme: LabelScheme) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str) and scheme.whole and re.fullmatch(r"[+-]?\d+\.0*", value):
        return value.split(".")[0]
    return str(value)


def _label_index(scheme: LabelScheme, value: Any) -> int:
    if isinstance(value, (list, dict)):
        raise LabelError("label_type", f"the label is a {type(value).__name__}, not one name or number")
    if not _is_label(value, scheme):
        raise LabelError("label_missing", f"the label is {value!r}, which is no finite number")
    name = _name(value, scheme)
    if scheme.indices and name.isdecimal() and int(name) < len(scheme.names):
        return int(name)
    for candidate in (str(value), name):
        if candidate in scheme.names:
            return scheme.names.index(candidate)
    raise LabelError("label_unknown", f"the label {name!r} is not among the {len(scheme.names)} known labels")


def _encode_number(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise LabelError("label_not_number", f"the label is no number ({type(value).__name__})")
    if not math.isfinite(number):
        raise LabelError("label_infinite", f"the label is {number}, not a finite number")
    return number


def _encode_multi_hot(scheme: LabelScheme, values: list[Any]) -> list[float]:
    bits = [bit for value in values if (bit := read_bit(value)) is not None]
    if len(bits) != len(values) or len(bits) != len(scheme.names):
        wrong = next(
            (f"; '{name}' is {v!r}" for name, v in zip(scheme.names, values, strict=False) if read_bit(v) is None), ""
        )
        raise LabelError("label_type", f"the label is not a list of {len(scheme.names)} zeros and ones{wrong}")
    return bits
