from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.data_loader import IterableDatasetShard
from runs import text_arguments
from tiny_models import tiny_text
from transformers import pipeline

from hf_selfattn import NerArguments, TextClassificationArguments, build_arguments, run
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.streams import stream_files
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.streaming import ShuffledStream, load_stream

LABELS = ("left", "right", "up")


def rows_of(count: int, seed: int = 0) -> list[dict[str, str]]:
    return [
        {"text": f"w{10 + i % 3} {tiny_text(4 + i % 7, 100 * seed + i)}", "label": LABELS[i % 3]} for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows in the format of the ending."""
    name = path.name
    if ".parquet" in name:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return str(path)
    if ".jsonl" in name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "\t" if ".tsv" in name else ";"
        text = "".join(mark.join(cells) + "\n" for cells in [["text", "label"], *([*row.values()] for row in rows)])
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def settings(model: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": model,
        "output_dir": str(folder / "run"),
        "train": [write(folder / "a.jsonl", rows_of(20)), write(folder / "b.csv", rows_of(13, seed=1))],
        "validation": write(folder / "validation.jsonl", rows_of(11, seed=2)),
        "streaming": True,
        "streaming_buffer": 8,
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "bf16": False,
        "seed": 0,
        "disable_tqdm": True,
        "heads": {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4},
        **changes,
    }


def arguments(*given: Any, **changes: Any) -> TextClassificationArguments:
    return text_arguments(settings(*given, **changes))


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.csv.gz", "rows.jsonl.gz", "rows.parquet"]
)
def test_streamed_rows_are_those_that_are_read_whole(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, rows_of(15))
    whole = task_of(TextClassificationArguments(train=path)).load().splits["train"]
    streamed = list(stream_files([Path(path)]))
    assert [row[ORIGIN] for row in streamed] == list(whole[ORIGIN])
    assert [row["text"] for row in streamed] == list(whole["text"])
    assert [row["label"] for row in streamed] == [whole.features["label"].names[label] for label in whole["label"]]


def test_numbers_of_label_names_in_a_parquet_file_become_the_names(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=list(LABELS))
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 0, None], "more": [[1], [0, 2], []]})
    rows = rows.cast_column("label", names).cast_column("more", datasets.List(names))
    rows.to_parquet(tmp_path / "rows.parquet")
    streamed = list(stream_files([tmp_path / "rows.parquet"]))
    assert [row["label"] for row in streamed] == ["up", "left", None]
    assert [row["more"] for row in streamed] == [["right"], ["left", "up"], []]


def test_a_pass_gives_each_row_once_in_another_order_every_epoch(tiny_backbone: str, tmp_path: Path) -> None:
    data = load_stream(arguments(tiny_backbone, tmp_path))
    assert data.stream is not None and data.stream.rows == 33 and "train" not in data.splits
    assert data.stream.label_counts == {"left": 12, "right": 11, "up": 10}
    train = ShuffledStream(data.stream, 0, 8)
    first, again = [row["text"] for row in train], [row["text"] for row in train]
    train.set_epoch(1)
    second = [row["text"] for row in train]
    assert first == again != second
    in_order = [row["text"] for row in ShuffledStream(data.stream, 0, 1)]
    assert in_order == [row["text"] for row in (*rows_of(20), *rows_of(13, seed=1))]
    assert sorted(first) == sorted(second) == sorted(in_order) and first != in_order


def test_two_processes_share_the_rows_of_one(tiny_backbone: str, tmp_path: Path) -> None:
    stream = load_stream(arguments(tiny_backbone, tmp_path)).stream
    assert stream is not None
    alone = [row["text"] for row in ShuffledStream(stream, 0, 8)]
    shards = [
        [row["text"] for row in IterableDatasetShard(ShuffledStream(stream, 0, 8), 4, False, 2, rank)]
        for rank in (0, 1)
    ]
    together = [text for i in range(0, len(shards[0]), 4) for shard in shards for text in shard[i : i + 4]]
    assert together[:33] == alone
    assert len(together) == 40 and together[33:] == alone[:7]  # the last batch is filled up


def test_a_streamed_run_is_scored_saved_and_opens(tiny_backbone: str, tmp_path: Path) -> None:
    results = run(arguments(tiny_backbone, tmp_path, max_steps=20))
    assert results["train"] == {
        "rows": 33,
        "fingerprint": None,
        "labels": {"left": 12, "right": 11, "up": 10},
        "streamed": True,
    }
    history = results["training"]["history"]
    assert results["training"]["steps"] == 20 and len([entry for entry in history if "eval_macro_f1" in entry]) == 5
    assert results["splits"]["validation"]["rows"] == 11 and "baseline" not in results
    assert "Trained on 33 rows that were streamed" in (tmp_path / "run/README.md").read_text()
    assert pipeline("text-classification", model=str(tmp_path / "run"))("w10 w20")[0]["label"] in LABELS


def test_the_order_of_the_rows_gives_the_losses_of_rows_read_whole(tiny_backbone: str, tmp_path: Path) -> None:
    """With a buffer of one row a stream is a sequential reading."""
    same = {"max_steps": 8, "logging_steps": 1, "backbone": {"hidden_dropout_prob": 0.0}, "standardise": False}
    same["heads"] = {**settings(tiny_backbone, tmp_path)["heads"], "classifier_dropout": 0.0}
    whole = {"streaming": False, "train_sampling_strategy": "sequential", "baseline": False}
    # Read whole, the two files would be of one split, too, if they were of one format.
    train = write(tmp_path / "one.jsonl", [*rows_of(20), *rows_of(13, seed=1)])
    found = {}
    for name, changes in {"streamed": {"streaming_buffer": 1}, "whole": whole}.items():
        results = run(
            arguments(tiny_backbone, tmp_path, train=train, output_dir=str(tmp_path / name), **same, **changes)
        )
        found[name] = [entry["loss"] for entry in results["training"]["history"] if "loss" in entry]
    assert len(found["whole"]) == 8 and found["streamed"] == pytest.approx(found["whole"], abs=1e-5)


def test_given_labels_spare_the_first_pass(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_selfattn.tasks.streaming.survey", lambda *_: pytest.fail("read train before training"))
    data = load_stream(arguments(tiny_backbone, tmp_path, label_names=["up", "left", "right"]))
    assert data.stream is not None and data.label_names == ["up", "left", "right"] and data.stream.rows is None
    assert [row["labels"] for row in data.stream][:3] == [1, 2, 0]


def test_a_split_of_the_hub_is_streamed(tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(tiny_backbone, tmp_path, dataset="some/texts", train=None, validation=None)
    labels = datasets.ClassLabel(names=list(LABELS))

    def opened(name: str, config: str | None, *, streaming: bool, **_: Any) -> dict[str, Any]:
        assert name == "some/texts" and streaming
        parts = {"train": rows_of(33), "dev": rows_of(11, seed=2)}
        made = {split: datasets.Dataset.from_list(rows).cast_column("label", labels) for split, rows in parts.items()}
        return {split: rows.to_iterable_dataset() for split, rows in made.items()}

    monkeypatch.setattr("datasets.load_dataset", opened)
    data = load_stream(given)
    assert data.stream is not None and len(data.splits["validation"]) == 11
    assert [data.label_names[row["labels"]] for row in data.stream] == [row["label"] for row in rows_of(33)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text": " ", "label": "left"}, r"b\.jsonl:3: column 'text': the text is empty"),
        ({"text": "w9", "label": None}, r"b\.jsonl:3.*no label|no label.*b\.jsonl:3"),
        ({"text": "w9", "label": "down"}, r"b\.jsonl:3: column 'label': the label 'down' is not among"),
    ],
)
def test_a_bad_row_is_named_or_left_out(bad: dict[str, Any], message: str, tiny_backbone: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*rows_of(2), bad, *rows_of(4)]
    changes: dict[str, Any] = {"train": write(tmp_path / "b.jsonl", rows)}
    if bad["label"] == "down":  # known to be none without a first pass only
        changes["label_names"] = list(LABELS)
    given = arguments(tiny_backbone, tmp_path, **changes)

    def read(given: TextClassificationArguments) -> Iterator[Any]:
        return iter(list(load_stream(given).stream or []))

    with pytest.raises(ValueError, match=message):
        read(given)
    given.on_bad_row = "drop"
    assert len(list(read(given))) == 6


def test_labels_that_a_first_pass_cannot_keep_are_refused(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_selfattn.data.streams.MOST_LABELS", 2)
    with pytest.raises(ValueError, match=r"column 'label' of train holds more than 2 different labels"):
        load_stream(arguments(tiny_backbone, tmp_path, validation=write(tmp_path / "v.jsonl", rows_of(2))))


def test_a_row_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: .* Each line must be one JSON object"):
        list(stream_files([tmp_path / "rows.jsonl"]))
    (tmp_path / "rows.csv").write_text("text,label\na,b\na,b,c\n")
    with pytest.raises(ValueError, match=r"rows\.csv:3 has 3 cells, the header 2"):
        list(stream_files([tmp_path / "rows.csv"]))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"rows\.parquet: the file is damaged"):
        list(stream_files([tmp_path / "rows.parquet"]))
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(ValueError, match=r"rows\.json: streaming=true reads \.csv"):
        list(stream_files([tmp_path / "rows.json"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "streaming=true needs max_steps"),
        ({"validation": None}, "needs train=… and validation=…"),
        ({"class_weights": "balanced"}, "streaming=true and class_weights do not go together"),
        ({"folds": 3}, "streaming=true and folds do not go together"),
        ({"deduplicate": True}, "streaming=true and deduplicate"),
        ({"sample_tokens": 64}, "streaming=true and sample_tokens"),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers=0"),
        ({"streaming_buffer": 0}, "streaming_buffer=0 must be 1"),
        ({"text_column": "body"}, "there is no column 'body'"),
    ],
)
def test_what_needs_all_rows_is_refused(
    changes: dict[str, Any], message: str, tiny_backbone: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(arguments(tiny_backbone, tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_entities_are_not_streamed() -> None:
    with pytest.raises(ValueError, match="There is no argument 'streaming'"):
        build_arguments({"model": "m", "output_dir": "o", "streaming": True}, NerArguments)
