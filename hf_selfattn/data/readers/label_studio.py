"""Exports of Label Studio: "JSON", a task with all its annotations, and "JSON-MIN", a row per annotation."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from .rows import ORIGIN, ReadRow, Row

TASK_KEYS = ("annotations", "completions", "predictions", "drafts")
ANSWER = "answer"  # of an annotation of JSON-MIN, which has no "result"
RECORD_KEYS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
REGIONS = ("labels", "hypertextlabels")  # kinds of results that are spans of a text


def is_task(row: Row) -> bool:
    """Tell whether a row is a task of the export "JSON", or one to be imported."""
    return isinstance(row.get("data"), dict) and (len(row) <= 2 or any(name in row for name in TASK_KEYS))


def is_minimal(row: Row) -> bool:
    """Tell whether a row is one of "JSON-MIN"."""
    return "annotation_id" in row and "lead_time" in row


def joined_minimal(rows: Iterator[ReadRow]) -> Iterator[ReadRow]:
    """Make a task of the rows of JSON-MIN that stand one after the other and have the same id."""
    for _, group in groupby(rows, key=lambda read: (read[0].get("id", id(read[0])), read[1])):
        found = list(group)
        row, problem = found[0]
        answers = _controls(row)
        data = {name: value for name, value in row.items() if name not in (*answers, *RECORD_KEYS, ORIGIN, "id")}
        annotations = [{ANSWER: {name: item.get(name) for name in answers}} for item, _ in found]
        yield {**row, "data": data, "annotations": annotations}, problem


def _controls(row: Row) -> list[str]:
    """List what was answered in a row of JSON-MIN: it stands between the task's id and the annotator."""
    names = [name for name in row if name not in RECORD_KEYS and name != ORIGIN]
    return names[names.index("id") + 1 :] if "id" in names else [name for name in names if _is_answer(row[name])]


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def task_reader(sample: Sequence[Row]) -> Callable[[Row], tuple[Row, str]]:
    """Return what reads a task: its data with the answers as columns, and why it is left out or "".

    The one control for choices becomes "label", the one for spans "spans"; several keep their names. Of several
    annotations a ground truth is read, else the most frequent answer.
    """
    answers = []
    for task in sample:
        with contextlib.suppress(ValueError):  # said when the task itself is read
            answers += _answers(task)
    spans = dict.fromkeys(name for answer in answers for name, value in answer.items() if _is_spans(value))
    labels = dict.fromkeys(name for answer in answers for name in answer if name not in spans)
    names = dict(zip(spans, ["spans"], strict=False)) if len(spans) == 1 else {}
    names |= dict(zip(labels, ["label"], strict=False)) if len(labels) == 1 else {}
    lists = {name for answer in answers for name, value in answer.items() if isinstance(value, list)}
    nothing: Row = {names.get(name, name): [] if name in lists else None for name in (*labels, *spans)}

    def read(task: Row) -> tuple[Row, str]:
        data = task.get("data")
        if not isinstance(data, dict):
            raise ValueError("a Label Studio task has its texts under 'data', and this row has not")
        row = {**({"id": task["id"]} if "id" in task else {}), **_with_text(data)}
        found = _answers(task)
        if not found:
            return row, "skipped" if _annotations(task) else "not annotated"
        answer = {names.get(name, name): value for name, value in _agreed(found).items()}
        return {**row, **nothing, **answer}, ""

    return read


def _with_text(data: Row) -> Row:
    """Return the data of a task; its only text, whatever its name is, as "text"."""
    texts = [name for name, value in data.items() if isinstance(value, str)]
    return {"text" if texts == [name] else name: value for name, value in data.items()}


def _annotations(task: Row) -> list[Row]:
    found = task.get("annotations", task.get("completions"))
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _answers(task: Row) -> list[Row]:
    """List the answers to a task by control, without those that were cancelled; a ground truth stands alone."""
    valid = [item for item in _annotations(task) if not (item.get("was_cancelled") or item.get("skipped"))]
    valid = [item for item in valid if item.get("ground_truth")] or valid
    return [_minimal_answer(item[ANSWER]) if ANSWER in item else _answer(item.get("result") or []) for item in valid]


def _texts(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or [])


def _agreed(answers: Sequence[Row]) -> Row:
    """Return the most frequent answer, of several the first."""
    keys = [json.dumps(answer, sort_keys=True) for answer in answers]
    return answers[keys.index(Counter(keys).most_common(1)[0][0])]


def _answer(results: Any) -> Row:
    """Return the values of an annotation by control; relations, and what belongs to a region, are not read."""
    answer: Row = {}
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise ValueError("the 'result' of an annotation of Label Studio is no list of objects")
    for result in results:
        kind, value = result.get("type"), result.get("value") or {}
        name = str(result.get("from_name", kind))
        if kind in REGIONS:
            answer.setdefault(name, []).extend(_spans(value))
        elif kind == "choices" and "start" not in value:
            answer.setdefault(name, []).extend(_texts(value.get("choices")))
        elif kind == "taxonomy":
            answer.setdefault(name, []).extend("/".join(path) for path in value.get("taxonomy") or [])
        elif kind in ("rating", "number"):
            answer[name] = value.get(kind)
    return answer


def _minimal_answer(answer: Row) -> Row:
    return {name: _minimal_value(value) for name, value in answer.items()}


def _minimal_value(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("choices", value)
    if isinstance(value, list):
        return [span for item in value for span in (_spans(item) if isinstance(item, dict) else [item])]
    return value


def _spans(region: Row) -> list[Row]:
    """Return a region as one span per label; without a label as a span that the check names."""
    kinds = next((_texts(region[kind]) for kind in REGIONS if region.get(kind)), [None])
    place = {name: region.get(name) for name in ("start", "end", "text")}
    return [{**place, "label": kind} for kind in kinds]


def _is_spans(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
