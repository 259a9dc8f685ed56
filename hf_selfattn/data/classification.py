"""Rows to checked classification data: columns found, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from .labels import LabelScheme, Target, degenerate, label_twins, read_scheme
from .reading import ORIGIN
from .rows import BadRow, Columns, bad_rows_message, column_values, inspect_rows, summarise
from .sources import with_origin
from .streams import Stream

TEXT_NAMES = (
    "sentence",
    "review",
    "content",
    "document",
    "comment",
    "tweet",
    "body",
    "message",
    "utterance",
    "abstract",
)
PAIR_NAMES = {
    "text": "text_pair",
    "text_a": "text_b",
    "text1": "text2",
    "sentence1": "sentence2",
    "question1": "question2",
    "premise": "hypothesis",
}
LABEL_NAMES = (
    "class",
    "category",
    "target",
    "sentiment",
    "polarity",
    "rating",
    "stars",
    "score",
    "topic",
    "intent",
    "emotion",
)
MENDS = {
    "label_unknown": "A label that train does not have cannot be scored: add training rows, mend it, or list it in "
    "label_names.",
    "label_not_number": "For classes set problem='single_label_classification'.",
    "label_type": "Lists of labels need problem='multi_label_classification'.",
}


@dataclass
class ClassificationData:
    """Checked data of one classification problem.

    Args:
        splits: columns ``text``, perhaps ``text_pair``, ``label``, ``__origin__`` and the kept ones; a label is an int
            (single-label, ordinal), C floats of 0 and 1 (multi-label) or a float (regression).
        problem: one of `labels.PROBLEMS`.
        label_names: the C names in the order of the targets; for regression the name of the one value.
        notes: sentences for the user: what was detected, dropped or looks odd.
        stream: the rows of train, where they are streamed; then they are no split.
    """

    splits: DatasetDict
    problem: str
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    stream: Stream | None = None


def prepare(
    splits: Mapping[str, Dataset],
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
) -> ClassificationData:
    """Check raw splits and bring them into one form; no text is cut.

    Args:
        problem: overrides the problem that the label column suggests; "ordinal" exists on request only.
        label_names: overrides the names and their order; integer labels may be positions in it.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"on_bad_row='{on_bad_row}' is unknown; it is 'error' or 'drop'.")
    splits = {name: with_origin(split, name) for name, split in splits.items()}
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"{name}: the split has no rows. Leave it out, or give it rows.")
    columns, notes = find_columns(
        splits, text_column=text_column, text_pair_column=text_pair_column, label_column=label_column
    )
    scheme = read_scheme(splits, columns.label, problem, label_names)
    inspected = {name: inspect_rows(split, columns, scheme) for name, split in splits.items()}
    findings = [finding for name, (_, bad) in inspected.items() for finding in summarise(name, bad)]
    if findings and on_bad_row == "error":
        known = {"label_unknown": f"{MENDS['label_unknown']} Known labels: {scheme.names[:20]}."}
        raise ValueError(bad_rows_message(findings, {**MENDS, **known}))
    notes += scheme.notes + [f"Dropped {finding}." for finding in findings] + _label_notes(scheme)
    kept = list(keep_columns)
    prepared = {
        name: _build(splits[name], columns, scheme, targets, bad, kept) for name, (targets, bad) in inspected.items()
    }
    for name, split in prepared.items():
        if len(split) == 0:
            raise ValueError(f"{name}: all {len(splits[name])} rows are bad. {'; '.join(map(str, findings[:5]))}")
    reason = degenerate(scheme, prepared["train"]["label"]) if "train" in prepared else ""
    if reason:
        place = splits["train"][0][ORIGIN]
        raise ValueError(
            f"train (from {place}): column '{columns.label}': {reason}. Training needs at least two different labels; "
            f"is label_column the right one of {found_columns(splits['train'])}?"
        )
    return ClassificationData(DatasetDict(prepared), scheme.problem, scheme.names, notes)


def find_columns(
    splits: Mapping[str, Dataset],
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Columns, list[str]]:
    """Find the text, pair and label columns by the names given or by well-known names.

    Returns:
        The columns, and notes on which were chosen.

    Raises:
        ValueError: a column is missing or several could be meant; the message lists the columns found.
    """
    if not splits:
        raise ValueError("no splits: give at least one of train, validation, test.")
    first = next(iter(splits.values()))
    found = found_columns(first)
    notes: list[str] = []
    text = text_column or _known_column(found, "text", ("text", *PAIR_NAMES), TEXT_NAMES, first, notes)
    pair = text_pair_column
    if pair is None and text_column is None:
        pair = next((name for name in found if name.lower() == PAIR_NAMES.get(text.lower())), None)
    label = label_column or _known_column(found, "label", ("label", "labels"), LABEL_NAMES, first, notes)
    columns = Columns(text, pair, label)
    names = [*columns.texts, label]
    if len(set(names)) < len(names):
        raise ValueError(f"text_column, text_pair_column and label_column must differ; they are {names}.")
    for option, name in zip(("text_column", "label_column", "text_pair_column"), (text, label, pair), strict=True):
        for split_name, split in splits.items():
            if name is not None and name not in split.column_names:
                raise ValueError(
                    f"{split_name} (from {_first_place(split)}): there is no column '{name}' ({option}); "
                    f"the columns found are {found_columns(split)}."
                )
    used = f"Columns: text '{text}'" + (f", text pair '{pair}'" if pair else "") + f", label '{label}'."
    return columns, [used, *notes]


def found_columns(split: Dataset) -> list[str]:
    """List the user's columns of a split."""
    return [name for name in split.column_names if name != ORIGIN]


def _known_column(
    found: list[str], role: str, sure: Sequence[str], likely: Sequence[str], split: Dataset, notes: list[str]
) -> str:
    """Take the column with a sure name; else the only one with a likely name."""
    first = [name for wanted in sure for name in found if name.lower() == wanted]
    others = [name for name in found if name.lower() in likely]
    candidates = first[:1] or others
    if len(candidates) != 1:
        trouble = f"several columns could be the {role} ({candidates})" if candidates else f"no {role} column is known"
        raise ValueError(
            f"{_first_place(split)}: {trouble} among the columns found: {found}. Set {role}_column=… to one of them "
            "(the first line of a CSV file must hold the column names)."
        )
    if first and others:
        notes.append(f"Column '{candidates[0]}' is the {role}; {others} could be too ({role}_column=… to change).")
    return candidates[0]


def _first_place(split: Dataset) -> str:
    return str(split[0][ORIGIN]) if len(split) and ORIGIN in split.column_names else "no rows"


def _label_notes(scheme: LabelScheme) -> list[str]:
    if scheme.problem == "regression":
        return []
    shown = ", ".join(scheme.names[:20]) + (", …" if len(scheme.names) > 20 else "")
    twins = [
        f"Warning: the labels {group} look like one label; they stay apart." for group in label_twins(scheme.names)
    ]
    return [f"Labels ({len(scheme.names)}): {shown}.", *twins]


def _build(
    split: Dataset,
    columns: Columns,
    scheme: LabelScheme,
    targets: list[Target | None],
    bad: list[BadRow],
    keep: list[str],
) -> Dataset:
    """Select, rename and encode; the texts stay where they are memory-mapped."""
    missing = [name for name in keep if name not in split.column_names]
    taken = [name for name in keep if name in ("text", "text_pair", "label", *columns.texts, columns.label)]
    if missing or taken:
        raise ValueError(
            f"keep_columns={keep}: {missing or taken} {'are not' if missing else 'already are'} columns of the data; "
            f"the columns found are {found_columns(split)}."
        )
    dropped = {row.index for row in bad}
    texts = dict(zip(columns.texts, ("text", "text_pair")[: len(columns.texts)], strict=True))
    result = split.with_format(None).select_columns([*texts, *keep, ORIGIN])
    for name in columns.texts:
        if getattr(result.features[name], "dtype", "") not in ("string", "large_string"):  # a mixed or empty column
            values = [value if isinstance(value, str) else None for value in column_values(result, name)]
            result = result.remove_columns(name).add_column(name, values, feature=Value("string"))
    result = result.rename_columns(texts)
    result = result.add_column("label", targets, feature=_label_feature(scheme))
    if dropped:
        result = result.select([index for index in range(len(result)) if index not in dropped])
    return result


def _label_feature(scheme: LabelScheme) -> Any:
    if scheme.problem == "regression":
        return Value("float64")
    if scheme.problem == "multi_label_classification":
        return List(Value("float32"))
    return ClassLabel(names=scheme.names)
