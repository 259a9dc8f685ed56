"""Exports of Label Studio, Prodigy, Doccano and spaCy, in the shapes that these tools write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_selfattn.data import load_splits, prepare_classification, prepare_tagging
from hf_selfattn.data.formats import ORIGIN, ROWS, Reading
from hf_selfattn.data.streams import stream_files

TEXTS = ["Mira met Bo in Ghent.", "The kettle broke.", "Bo wrote to Mira.", "It boils fast."]


def written(folder: Path, name: str, rows: list[Any]) -> Path:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def labels_of(data: Any) -> list[Any]:
    rows = data.splits["train"]["label"][:]
    if data.problem == "multi_label_classification":
        return [{name for name, on in zip(data.label_names, row, strict=True) if on} for row in rows]
    return [data.label_names[row] for row in rows]


def entities_of(data: Any) -> list[list[tuple[str, str]]]:
    """The words and types of the entities of each row, where each is one word."""
    split, names = data.splits["train"], data.label_names
    return [
        [(word, names[tag][2:]) for word, tag in zip(words, tags, strict=True) if names[tag] != "O"]
        for words, tags in zip(split["tokens"][:], split["tags"][:], strict=True)
    ]


def studio_result(kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"value": value, "id": "x8Kd", "from_name": name, "to_name": "text", "type": kind, "origin": "manual"}


def studio_task(number: int, text: str, *annotations: Any, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """A task as Label Studio exports it; an annotation is a list of results, or None where it was skipped."""
    return {
        "id": number,
        "annotations": [
            {
                "id": 10 * number + i,
                "completed_by": 1,
                "result": results or [],
                "was_cancelled": results is None,
                "ground_truth": False,
                "lead_time": 4.2,
            }
            for i, results in enumerate(annotations)
        ],
        "file_upload": "1a2b-texts.csv",
        "drafts": [],
        "predictions": [],
        "data": {"text": text} if data is None else data,
        "meta": {},
        "created_at": "2024-03-09T21:52:49.513742Z",
        "inner_id": number,
        "total_annotations": len(annotations),
        "cancelled_annotations": sum(results is None for results in annotations),
        "project": 3,
    }


def choice(*names: str, control: str = "sentiment") -> list[dict[str, Any]]:
    return [studio_result("choices", control, {"choices": list(names)})]


def region(start: int, end: int, text: str, *kinds: str) -> dict[str, Any]:
    return studio_result("labels", "label", {"start": start, "end": end, "text": text, "labels": list(kinds)})


def test_label_studio_choices(tmp_path: Path) -> None:
    tasks = [
        studio_task(1, TEXTS[0], choice("good")),
        studio_task(2, TEXTS[1], None, choice("bad"), choice("good"), choice("bad")),  # the most frequent answer
        studio_task(3, TEXTS[2], None),
        studio_task(4, TEXTS[3]),
        studio_task(5, TEXTS[3], choice("good")),
    ]
    tasks[4]["annotations"].append({**tasks[1]["annotations"][1], "ground_truth": True})
    data = prepare_classification(load_splits(train=written(tmp_path, "tasks.json", tasks)))
    assert data.problem == "single_label_classification" and labels_of(data) == ["good", "bad", "bad"]
    assert data.splits["train"][ORIGIN][1] == f"{tmp_path / 'tasks.json'}[1]"
    assert "train: read as a Label Studio export: 5 tasks, 1 skipped, 1 not annotated." in data.notes


def test_label_studio_several_choices_and_another_name_of_the_text(tmp_path: Path) -> None:
    choices = [choice("fast", "cheap"), choice("fast"), [], choice("cheap")]
    tasks = [
        studio_task(i, "", found, data={"remark": text, "id": 7})
        for i, (text, found) in enumerate(zip(TEXTS, choices, strict=True))
    ]
    data = prepare_classification(load_splits(train=written(tmp_path, "tasks.json", tasks)))
    assert data.problem == "multi_label_classification"
    assert labels_of(data) == [{"fast", "cheap"}, {"fast"}, set(), {"cheap"}]
    assert data.splits["train"]["text"][:] == TEXTS


def test_label_studio_controls_keep_their_names_where_there_are_several(tmp_path: Path) -> None:
    answers = [[*choice("a"), *choice("x", control="area")], [*choice("b"), *choice("y", control="area")]]
    stars = studio_result("rating", "stars", {"rating": 4})
    tasks = [studio_task(i, TEXTS[i], [*found, stars]) for i, found in enumerate(answers)]
    split = load_splits(train=written(tmp_path, "tasks.json", tasks))
    assert labels_of(prepare_classification(split, label_column="area")) == ["x", "y"]
    assert split["train"]["stars"][:] == [4, 4] and split["train"]["sentiment"][:] == ["a", "b"]


def test_label_studio_spans(tmp_path: Path) -> None:
    relation = {"from_id": "x8Kd", "to_id": "y9", "type": "relation", "direction": "right"}
    tasks = [
        studio_task(1, TEXTS[0], [region(0, 4, "Mira", "PER"), region(15, 20, "Ghent", "LOC"), relation]),
        studio_task(2, TEXTS[1], []),
        studio_task(3, TEXTS[2], None),
        studio_task(4, "\U0001f600 Bo", [region(3, 5, "Bo", "PER")]),  # JavaScript counts the emoji as two
    ]
    data = prepare_tagging(load_splits(train=written(tmp_path, "tasks.json", tasks)))
    assert entities_of(data) == [[("Mira", "PER"), ("Ghent", "LOC")], [], [("Bo", "PER")]]
    assert "train: read as a Label Studio export: 4 tasks, 1 skipped." in data.notes


def minimal(number: int, text: str, annotation: int, **answers: Any) -> dict[str, Any]:
    """A row as Label Studio writes it in JSON-MIN."""
    end = {"annotator": 1, "annotation_id": annotation, "created_at": "2024", "updated_at": "2024", "lead_time": 1.5}
    return {"text": text, "id": number, **answers, **end}


def test_label_studio_json_min(tmp_path: Path) -> None:
    one = [
        minimal(1, TEXTS[0], 1, feeling="good"),
        minimal(2, TEXTS[1], 2, feeling="good"),
        minimal(2, TEXTS[1], 3, feeling="bad"),
        minimal(2, TEXTS[1], 4, feeling="bad"),
        minimal(3, TEXTS[2], 5),
    ]
    data = prepare_classification(load_splits(train=written(tmp_path, "one.json", one)))
    assert data.problem == "single_label_classification" and labels_of(data) == ["good", "bad"]
    assert "train: read as a Label Studio export (JSON-MIN): 3 tasks, 1 without a label." in data.notes
    several = [minimal(1, TEXTS[0], 1, use={"choices": ["a", "b"]}), minimal(2, TEXTS[1], 2, use="a")]
    data = prepare_classification(load_splits(train=written(tmp_path, "several.json", several)))
    assert data.problem == "multi_label_classification" and labels_of(data) == [{"a", "b"}, {"a"}]
    spans = [minimal(1, TEXTS[0], 1, label=[{"start": 0, "end": 4, "text": "Mira", "labels": ["PER"]}])]
    spans += [minimal(2, TEXTS[1], 2)]
    data = prepare_tagging(load_splits(train=written(tmp_path, "spans.json", spans)))
    assert entities_of(data) == [[("Mira", "PER")], []]


HASHES = {"_input_hash": 1, "_task_hash": 2, "_session_id": "a-mira", "_view_id": "ner_manual"}


def prodigy(text: str, answer: str = "accept", **more: Any) -> dict[str, Any]:
    return {"text": text, **HASHES, **more, "answer": answer, "_timestamp": 1700000000}


def test_prodigy_spans(tmp_path: Path) -> None:
    tokens = [{"text": "Bo", "start": 0, "end": 2, "id": 0, "ws": True}]
    span = {"start": 0, "end": 2, "token_start": 0, "token_end": 0, "label": "PER"}
    tasks = [
        prodigy(TEXTS[2], tokens=tokens, spans=[span]),
        prodigy(TEXTS[1], tokens=tokens),
        prodigy(TEXTS[0], "reject", tokens=tokens, spans=[{**span, "end": 4}]),
        prodigy(TEXTS[3], "ignore", tokens=tokens),
    ]
    data = prepare_tagging(load_splits(train=written(tmp_path, "annotations.jsonl", tasks)))
    assert entities_of(data) == [[("Bo", "PER")], []]
    assert data.splits["train"][ORIGIN][1] == f"{tmp_path / 'annotations.jsonl'}:2"
    assert "train: read as a Prodigy export: 4 tasks, 1 rejected, 1 ignored." in data.notes


def test_prodigy_choices(tmp_path: Path) -> None:
    options = [{"id": "a", "text": "Class A"}, {"id": 2, "text": "b"}]
    tasks = [
        prodigy(TEXTS[0], options=options, accept=["a"], config={"choice_style": "single"}),
        prodigy(TEXTS[1], options=options, accept=[2]),
        prodigy(TEXTS[2], "ignore", options=options, accept=[]),
        prodigy(TEXTS[3], options=options, accept=[]),
    ]
    data = prepare_classification(load_splits(train=written(tmp_path, "one.jsonl", tasks)))
    assert labels_of(data) == ["a", "b"] and data.problem == "single_label_classification"
    assert "train: read as a Prodigy export: 4 tasks, 1 ignored, 1 without a label." in data.notes
    tasks[3]["accept"] = ["a", 2]
    data = prepare_classification(load_splits(train=written(tmp_path, "several.jsonl", tasks)))
    assert labels_of(data) == [{"a"}, {"b"}, {"a", "b"}]


def test_prodigy_yes_and_no(tmp_path: Path) -> None:
    tasks = [prodigy(text, answer, label="SPAM") for text, answer in zip(TEXTS, ["accept", "reject"] * 2, strict=True)]
    data = prepare_classification(load_splits(train=written(tmp_path, "one.jsonl", tasks)))
    assert labels_of(data) == ["SPAM", "not SPAM"] * 2
    tasks[2]["label"] = "HAM"  # one question of several: a rejected one says little
    data = prepare_classification(load_splits(train=written(tmp_path, "two.jsonl", tasks)))
    assert labels_of(data) == ["SPAM", "HAM"]
    assert "train: read as a Prodigy export: 4 tasks, 2 rejected." in data.notes


@pytest.mark.parametrize("form", ["labels", "entities", "old entities"])
def test_doccano_spans(tmp_path: Path, form: str) -> None:
    spans = [[[0, 4, "PER"], [15, 20, "LOC"]], []]
    rows: list[dict[str, Any]] = []
    for i, found in enumerate(spans):
        row: dict[str, Any] = {"id": i, "text": TEXTS[i], "Comments": []}
        if form == "labels":
            row["label"] = found
        elif form == "old entities":
            row["entities"] = found
        else:
            row["entities"] = [{"id": s, "label": kind, "start_offset": s, "end_offset": e} for s, e, kind in found]
            row["relations"] = [{"id": 1, "from_id": 0, "to_id": 15, "type": "in"}]
        rows.append(row)
    data = prepare_tagging(load_splits(train=written(tmp_path, "all.jsonl", rows)))
    assert entities_of(data) == [[("Mira", "PER"), ("Ghent", "LOC")], []]
    assert "train: read as a Doccano export: 2 documents." in data.notes


def test_doccano_classes(tmp_path: Path) -> None:
    found = [["good"], ["bad"], [], ["good"]]
    rows = [{"id": i, "data": TEXTS[i], "label": labels} for i, labels in enumerate(found)]
    data = prepare_classification(load_splits(train=written(tmp_path, "all.jsonl", rows)))
    assert labels_of(data) == ["good", "bad", "good"]
    assert "train: read as a Doccano export: 4 documents, 1 without a label." in data.notes
    rows[3]["label"] = ["good", "bad"]
    data = prepare_classification(load_splits(train=written(tmp_path, "several.jsonl", rows)))
    assert labels_of(data) == [{"good"}, {"bad"}, set(), {"good", "bad"}]


def test_spacy_examples(tmp_path: Path) -> None:
    cats = [{"good": 1.0, "bad": 0.0}, {"good": 0, "bad": 1}]
    rows = [{"text": text, "cats": found} for text, found in zip(TEXTS, cats, strict=False)]
    assert labels_of(prepare_classification(load_splits(train=written(tmp_path, "a.jsonl", rows)))) == ["good", "bad"]
    pairs = [[TEXTS[0], {"entities": [[0, 4, "PER"]]}], [TEXTS[1], {"entities": []}]]
    data = prepare_tagging(load_splits(train=written(tmp_path, "train.json", pairs)))
    assert entities_of(data) == [[("Mira", "PER")], []]


def test_every_row_is_read_where_no_labels_are_wanted(tmp_path: Path) -> None:
    tasks = [studio_task(1, TEXTS[0], choice("good")), studio_task(2, TEXTS[1], None), studio_task(3, TEXTS[2])]
    path = written(tmp_path, "tasks.json", tasks)
    with path.open("rb") as stream:
        rows = list(ROWS[".json"](stream, path, Reading(labelled=False)))
    assert [row["text"] for row, _ in rows] == TEXTS[:3]
    tasks = [{"data": {"text": text}} for text in TEXTS]  # as they are imported
    path = written(tmp_path, "import.json", tasks)
    with path.open("rb") as stream:
        assert [row["text"] for row, _ in ROWS[".json"](stream, path, Reading(labelled=False))] == TEXTS
    with pytest.raises(
        ValueError, match=r"import\.json: the file holds no rows to learn from\. read as .* 4 not annot"
    ):
        load_splits(train=path)


def test_a_stream_reads_them_too(tmp_path: Path) -> None:
    rows = [prodigy(text, answer, label="a") for text, answer in zip(TEXTS, ["accept", "ignore"] * 2, strict=True)]
    reading = Reading()
    assert [row["text"] for row in stream_files([written(tmp_path, "a.jsonl", rows)], reading)] == TEXTS[::2]
    assert reading.notes() == ["read as a Prodigy export: 4 tasks, 2 ignored."]


BAD_SPANS: dict[str, tuple[str, list[Any], str]] = {
    "no label": ("a.json", [studio_task(1, TEXTS[0], [region(0, 4, "Mira")])], r"a\.json\[0\] \(but is .*'Mira'"),
    "another text": (
        "a.json",
        [studio_task(1, TEXTS[1], []), studio_task(2, TEXTS[0], [region(1, 5, "Mira", "PER")])],
        r"a\.json\[1\] \(.*said to be 'Mira', but is 'ira '",
    ),
    "overlap": (
        "a.json",
        [studio_task(1, TEXTS[0], [region(0, 8, "Mira met", "A"), region(5, 11, "met Bo", "B")])],
        r"a\.json\[0\] \(\[0, 8, 'A'\] \('Mira met'\) and \[5, 11, 'B'\] \('met Bo'\)\)\n.*on_overlap='longest'",
    ),
    "minimal": (
        "a.json",
        [minimal(1, TEXTS[0], 1, label=[{"start": 0, "end": 99, "text": "x", "labels": ["PER"]}])],
        r"a\.json\[0\] \(\[0, 99, 'PER'\] in 21 characters",
    ),
    "prodigy": ("a.jsonl", [prodigy(TEXTS[0], spans=[{"start": 0, "end": 4}])], r"a\.jsonl:1 \(but is"),
    "doccano": (
        "a.jsonl",
        [
            {"id": 1, "text": TEXTS[1], "label": []},
            {"id": 2, "text": TEXTS[0], "label": [[0, 4, "PER"], [0, 8, "PER"]]},
        ],
        r"a\.jsonl:2 \(\[0, 4, 'PER'\] \('Mira'\) and \[0, 8, 'PER'\]",
    ),
    "no list of results": (
        "a.json",
        [studio_task(1, TEXTS[0], []), studio_task(2, TEXTS[0], "x")],
        r"a\.json\[1\]: the 'result' of an annotation of Label Studio is no list of objects",
    ),
    "no task": (
        "a.json",
        [studio_task(1, TEXTS[0], []), {"text": "x"}],
        r"a\.json: 1 row\(s\) cannot be read: .*a\.json\[1\]: a Label Studio task has its texts under 'data'",
    ),
}


@pytest.mark.parametrize("case", BAD_SPANS)
def test_bad_rows_are_named(tmp_path: Path, case: str) -> None:
    name, rows, message = BAD_SPANS[case]
    with pytest.raises(ValueError, match=message):
        prepare_tagging(load_splits(train=written(tmp_path, name, rows)))


def test_on_overlap_keeps_one_and_says_so(tmp_path: Path) -> None:
    _, tasks, _ = BAD_SPANS["overlap"]
    splits = load_splits(train=written(tmp_path, "a.json", tasks))
    data = prepare_tagging(splits, on_overlap="first")
    assert entities_of(data) == [[("Mira", "A"), ("met", "A")]]
    assert any(note.startswith("Repaired: train: two spans overlap, and one is left out: 1") for note in data.notes)
    with pytest.raises(ValueError, match="on_overlap='nested' is unknown; it is one of error, longest, first"):
        prepare_tagging(splits, on_overlap="nested")
