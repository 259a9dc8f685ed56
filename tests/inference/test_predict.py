"""`predict`: the input's columns and the answers, whole or to be gone on with, the same by one process or two."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from saved_models import TAGS, saved
from tiny_models import tiny_text, tiny_wordpiece
from warm_python import warm_environment, warm_launcher, warm_python

from hf_selfattn import PredictArguments, open_predictor, predict
from hf_selfattn.inference import predict as module

ROWS = [
    {"id": str(number), "text": tiny_text(1 + number % 9, seed=number), "note": 'a "b", c'} for number in range(45)
]
KILL = """
import os, signal, sys
from hf_selfattn import PredictArguments, predict
left = int(sys.argv[1])
def hook(event, values):
    global left
    if event in ("open", "os.rename", "os.remove") and any(sys.argv[2] in str(value) for value in values):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
predict(PredictArguments(model=sys.argv[3], input=sys.argv[4], output=sys.argv[5], block_rows=4))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("classifier"), "single_label"))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("tagger"), "token", tiny_wordpiece(), **TAGS))


@pytest.fixture
def rows(tmp_path: Path) -> str:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*ROWS[0]])
        writer.writeheader()
        writer.writerows(ROWS)
    return str(tmp_path / "rows.csv")


def given(model: str, source: Any, output: Path | str, **options: Any) -> PredictArguments:
    return PredictArguments(model=model, input=source, output=str(output), **{"block_rows": 8, **options})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_answers_are_those_of_the_predictor(model: str, rows: str, tmp_path: Path) -> None:
    counts = predict(given(model, rows, tmp_path / "answers.jsonl", probabilities=True))
    assert counts == {"rows": 45, "answered": 45, "skipped": 0}
    answers = open_predictor(model).answers([{"text": row["text"]} for row in ROWS])
    for written, row, answer in zip(lines_of(tmp_path / "answers.jsonl"), ROWS, answers, strict=True):
        assert [*written] == ["id", "text", "note", "label", "probability", "probabilities"]
        assert {name: written[name] for name in row} == row
        assert written["label"] == answer["label"]
        assert written["probabilities"] == pytest.approx(answer["probabilities"], abs=0.02)  # other batches, bfloat16
    assert not [*tmp_path.glob("*.parts")]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "csv.bz2", "jsonl.xz", "ndjson.zst"])
def test_every_format_holds_the_same(ending: str, model: str, rows: str, tmp_path: Path) -> None:
    output = tmp_path / f"answers.{ending}"
    predict(given(model, rows, output))
    assert read(output) == read_plain(model, rows, tmp_path)
    again = tmp_path / f"again.{ending}"
    predict(given(model, str(output), again, prefix="second_"))  # what is written can be read
    first = [{name: str(value) for name, value in row.items()} for row in read(output)]
    assert [{name: str(row[name]) for name in first[0]} for row in read(again)] == first


def read_plain(model: str, rows: str, folder: Path) -> list[dict[str, Any]]:
    predict(given(model, rows, folder / "plain.jsonl"))
    return lines_of(folder / "plain.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
    if path.suffix == ".zst":
        text = pa.input_stream(str(path), compression="zstd").read().decode()
    else:
        text = unpack.get(path.suffix, bytes)(path.read_bytes()).decode()
    if ".jsonl" in path.name or ".ndjson" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    found = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    found = found if ".tsv" in path.name else csv.DictReader(io.StringIO(text))
    return [{**row, "probability": float(row["probability"])} for row in found]


def test_types_of_a_parquet_file_stay(model: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array(range(20), pa.timestamp("ns")),
            "small": pa.array(range(20), pa.int8()),
            "text": [f"w{5 + number}" if number != 3 else None for number in range(20)],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    counts = predict(given(model, str(tmp_path / "rows.parquet"), tmp_path / "answers.parquet", on_bad_row="skip"))
    found = pq.read_table(tmp_path / "answers.parquet")
    assert counts == {"rows": 20, "answered": 19, "skipped": 1}
    assert found.select(table.column_names).equals(table.take([*range(3), *range(4, 20)]))
    assert found.schema.field("probability").type == pa.float64()


def test_a_data_set(model: str, tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "data")
    options: dict[str, Any] = {"model": model, "dataset": str(tmp_path / "data"), "block_rows": 7}
    predict(PredictArguments(**options, output=str(tmp_path / "answers.jsonl")))
    assert [row["id"] for row in lines_of(tmp_path / "answers.jsonl")] == [row["id"] for row in ROWS]
    with pytest.raises(ValueError, match=r"has the splits train\. Set split"):
        predict(PredictArguments(**options, split="dev", output=str(tmp_path / "answers.jsonl")))


def test_several_files_and_lines_of_text(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w5 w6\nw7\n")
    (tmp_path / "b.txt").write_text("w8\n")
    predict(given(model, str(tmp_path / "?.txt"), tmp_path / "answers.csv"))
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0] == "text,label,probability"
    assert [line.split(",")[0] for line in lines[1:]] == ["w5 w6", "w7", "w8"]


def test_pipes(model: str, tmp_path: Path) -> None:
    code = (
        "import sys; from hf_selfattn import *; from hf_selfattn import predict, PredictArguments; "
        f"predict(PredictArguments(model={model!r}, input='-', input_format='csv', output='-', block_rows=2))"
    )
    done = subprocess.run([warm_python(), "-c", code], input=b"text\nw5\nw6\nw7\n", capture_output=True, check=True)
    assert [json.loads(line)["text"] for line in done.stdout.decode().splitlines()] == ["w5", "w6", "w7"]
    assert b"Rows answered in the standard output: 3." in done.stderr and b"text in each line" not in done.stderr
    code = code.replace("input_format='csv', ", "")
    done = subprocess.run([warm_python(), "-c", code], input=b"text\nw5\n", capture_output=True, check=True)
    assert b"The standard input is read as a text in each line; a table needs input_format=csv" in done.stderr


def test_a_column_file_keeps_its_lines(tagger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "# newdoc id = d1\n# sent_id = 1\n1-2\tw5ab\n1\tw5\n2\tw6ab\n\n1\tw7\n2\tw8\n2.1\tw9\n"
    (tmp_path / "rows.conllu").write_text(source)
    predict(given(tagger, str(tmp_path / "rows.conllu"), tmp_path / "answers.conllu"))
    found = (tmp_path / "answers.conllu").read_text()
    assert "\n".join(line.rsplit("\t", 1)[0] for line in found.splitlines()) + "\n" == source + "\n"
    tags = [line.split("\t")[-1] for line in found.splitlines() if line.count("\t") == 2]
    expected = open_predictor(tagger).answers([{"tokens": ["w5", "w6ab"]}, {"tokens": ["w7", "w8"]}])
    assert tags == ["_", *expected[0]["tags"], *expected[1]["tags"], "_"]
    predict(given(tagger, str(tmp_path / "rows.conllu"), tmp_path / "answers.jsonl"))
    assert lines_of(tmp_path / "answers.jsonl")[1]["1"] == ["w7", "w8", "w9"]
    (tmp_path / "text.jsonl").write_text('{"text": "w5 w6"}\n')
    capsys.readouterr()
    (tmp_path / "words.txt").write_text("w5\nw6ab\n")
    predict(given(tagger, str(tmp_path / "words.txt"), tmp_path / "words.jsonl"))
    assert f"a word in each line: {tmp_path / 'words.txt'}. Texts in lines need" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a column file is written of a column file only"):
        predict(given(tagger, str(tmp_path / "text.jsonl"), tmp_path / "other.conll"))


def test_entities_have_their_places(tagger: str, rows: str, tmp_path: Path) -> None:
    predict(given(tagger, rows, tmp_path / "answers.csv"))
    with (tmp_path / "answers.csv").open(newline="") as file:
        found = [(row["text"], json.loads(row["entities"])) for row in csv.DictReader(file)]
    assert sum(len(entities) for _, entities in found) > 20
    assert all(text[e["start"] : e["end"]] == e["text"] for text, entities in found for e in entities)
    predict(given(tagger, rows, tmp_path / "answers.parquet"))
    assert [row["entities"] for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()] == [
        e for _, e in found
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", "text,n\nw5,1\n ,2\nw6,3\n", r"bad.csv:3: column 'text': the text is empty"),
        ("bad.csv", "text,n\nw5,1\nw6\nw6,3\n", r"bad.csv:3 has 1 cells, the header 2"),
        ("bad.tsv", "text\tn\nw5\t1\nw6\nw6\t3\n", r"bad.tsv:3 has 1 cells"),
        ("bad.jsonl", '{"text": "w5"}\n{"text": 7}\n{"text": "w6"}\n', r"bad.jsonl:2: column 'text': .* not a string"),
        ("bad.jsonl", '{"text": "w5"}\n{"text": \n{"text": "w6"}\n', r"bad.jsonl:2: Expecting value"),
        ("bad.txt", "w5\n\nw6\n", r"bad.txt:2: column 'text': the text is empty"),
    ],
)
def test_a_bad_row_is_named_and_stops_or_is_skipped(
    name: str, content: str, message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        predict(given(model, str(tmp_path / name), tmp_path / "answers.jsonl"))
    counts = predict(given(model, str(tmp_path / name), tmp_path / "answers.jsonl", on_bad_row="skip"))
    assert counts == {"rows": 3, "answered": 2, "skipped": 1}
    assert [row["text"] for row in lines_of(tmp_path / "answers.jsonl")] == ["w5", "w6"]
    assert f"1 of 3 rows were bad and skipped: {tmp_path / name}" in capsys.readouterr().out


def test_pairs_of_texts(model: str, tmp_path: Path) -> None:
    rows = [{"premise": "w5 w6", "hypothesis": "w7"}, {"premise": "w5", "hypothesis": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"rows.jsonl:2: column 'hypothesis': no text"):
        predict(given(model, str(tmp_path / "rows.jsonl"), tmp_path / "answers.jsonl"))
    assert not [*tmp_path.glob("*.parts")]  # there is nothing to go on with
    predict(given(model, str(tmp_path / "rows.jsonl"), tmp_path / "answers.jsonl", on_bad_row="skip"))
    answer = open_predictor(model).answers([{"text": "w5 w6", "text_pair": "w7"}])[0]
    assert lines_of(tmp_path / "answers.jsonl")[0]["probability"] == pytest.approx(answer["probability"], abs=1e-6)


@pytest.mark.parametrize(
    ("pairs", "header", "message"),
    [
        (True, "text,source", "trained on pairs of texts, and the input has only the texts of 'text'"),
        (False, "premise,hypothesis", "trained on single texts, and the input has pairs, 'premise' and 'hypothesis'"),
    ],
)
def test_pairs_are_no_single_texts(pairs: bool, header: str, message: str, model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "text_pairs": pairs}))
    (tmp_path / "rows.csv").write_text(f"{header}\nw5 w6,w7\n")
    with pytest.raises(ValueError, match=message):
        predict(given(str(folder), str(tmp_path / "rows.csv"), tmp_path / "answers.jsonl"))


def test_a_text_of_brat_is_read_as_it_is_where_the_format_is_given(tagger: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w5 w6\nw7\n")
    (tmp_path / "a.ann").write_text("T1\tPER 0 2\tw5\n")
    predict(given(tagger, str(tmp_path / "a.txt"), tmp_path / "answers.jsonl", input_format="text"))
    assert [row["text"] for row in lines_of(tmp_path / "answers.jsonl")] == ["w5 w6", "w7"]


def test_no_file_is_written_over_that_is_read(model: str, rows: str, tmp_path: Path) -> None:
    before = Path(rows).read_text()
    with pytest.raises(ValueError, match=r"rows.csv' is a file that is read, too"):
        predict(given(model, [str(tmp_path / "*.csv")], Path(rows)))
    assert Path(rows).read_text() == before


def test_names_that_clash_are_refused(model: str, rows: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "w5", "label": "x"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:1: the input has a column 'label' already. Set prefix="):
        predict(given(model, str(tmp_path / "rows.jsonl"), tmp_path / "answers.csv"))
    predict(given(model, str(tmp_path / "rows.jsonl"), tmp_path / "answers.csv", prefix="new_"))
    assert (tmp_path / "answers.csv").read_text().splitlines()[0] == "text,label,new_label,new_probability"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "a.docx"}, "'.docx' is not written"),
        ({"output": "a.parquet.gz"}, "compressed inside"),
        ({"abstain": 1.5}, "abstain=1.5 must be a probability"),
        ({"abstain": 0.5}, "results of this model .* do not say"),
        ({"block_rows": 0}, "block_rows=0"),
        ({"input": "missing-*.csv"}, "no file matches"),
        ({"dataset": "x"}, "exactly one of input"),
        ({"text_column": "body"}, "there is no column 'body'"),
        ({"on_bad_row": "drop"}, "it is 'error' or 'skip'"),
    ],
)
def test_what_cannot_be_done_is_told(
    options: dict[str, Any], message: str, model: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        predict(PredictArguments(**{"model": model, "input": rows, "output": "answers.csv", **options}))


def test_what_is_answered_already_is_not_answered_again(
    model: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(given(model, rows, tmp_path / "whole.csv"))
    answer, asked = module.Predictor.answers, []

    def stops(self: Any, rows: Any) -> Any:
        asked.append(len(rows))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answer(self, rows)

    monkeypatch.setattr(module.Predictor, "answers", stops)
    with pytest.raises(KeyboardInterrupt):
        predict(given(model, rows, tmp_path / "answers.csv"))
    predict(given(model, rows, tmp_path / "answers.csv"))
    assert asked == [8, 8, 8, 8, 8, 8, 5]
    assert "Going on: 3 blocks of 8 rows are answered already." in capsys.readouterr().out
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

    asked[:] = []
    with pytest.raises(KeyboardInterrupt):
        predict(given(model, rows, tmp_path / "answers.csv"))
    Path(rows).write_text(Path(rows).read_text().replace("w", "w"[::-1]) + "99,w5,x\n")
    predict(given(model, rows, tmp_path / "answers.csv"))
    assert asked == [8, 8, 8, 8, 8, 8, 8, 8, 8, 6]
    assert "another input than before, so all rows are answered anew" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_any_moment(model: str, rows: str, tmp_path: Path) -> None:
    predict(given(model, rows, tmp_path / "whole.csv", block_rows=4))
    for name, count in (
        ("plan.json", 2),
        ("00000000", 2),
        ("00000007", 1),
        ("/whole.csv", 1),
        ("answers.csv.parts", 5),
    ):
        words = [str(count), name, model, rows, str(tmp_path / "answers.csv")]
        done = subprocess.run([warm_python(), "-c", KILL, *words], capture_output=True, text=True)
        assert done.returncode == -9, (name, done.stderr)
        assert not (tmp_path / "answers.csv").exists()
    predict(given(model, rows, tmp_path / "answers.csv", block_rows=4))
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "rows.csv", "whole.csv"]


@pytest.mark.slow
def test_two_processes_write_the_same_file(model: str, rows: str, tmp_path: Path) -> None:
    predict(given(model, rows, tmp_path / "one.csv", block_rows=4))
    script = tmp_path / "two.py"
    script.write_text(KILL.replace("sys.addaudithook(hook)", ""))
    launcher = [*warm_launcher("torchrun"), "--standalone", "--nproc_per_node", "2"]
    words = [str(script), "0", "", model, rows, str(tmp_path / "answers.csv")]
    done = subprocess.run([*launcher, *words], env=warm_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 45.") == 1
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
