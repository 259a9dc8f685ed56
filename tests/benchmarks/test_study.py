"""Tables, plot and paired tests of the study, from results files made here and from those of the repository."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints
from xml.etree import ElementTree

import compare
import numpy as np
import plot
import pytest
import run as runner
import study
import tables
import yaml
from study import FULL

from hf_selfattn import build_arguments
from hf_selfattn.arguments import read_yaml
from hf_selfattn.files import read_json, write_json

EXPERIMENTS = Path(runner.EXPERIMENTS)
R8 = FULL[0]


def run_record(
    score: float,
    seconds: float,
    layers: int = 4,
    cache: float | None = None,
    tried: tuple[float, ...] = (),
    gpus: tuple[str, ...] = (),
) -> dict[str, Any]:
    return {
        "environment": {"accelerators": list(gpus)},
        "arguments": {"heads": {} if layers == 4 else {"num_mixed_layers": layers}},
        "sweep": {"runs": [{"cpu_seconds": one} for one in tried]},
        "training": {"cpu_seconds": seconds, "feature_cache": None if cache is None else {"cpu_seconds": cache}},
        "splits": {"test": {"scores": {"macro_f1": {"value": score}}}},
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of R8: two seeds of two probes that share features, one seed of the stock head."""
    runs = {
        "stock-lora-seed-0": run_record(0.8, 400.0),
        "probe-seed-0": run_record(0.9, 30.0, cache=20.0),
        "probe-seed-1": run_record(0.7, 11.0, cache=1.0),
        "probe-no-mix-seed-0": run_record(0.85, 18.0, layers=1, cache=7.0),
        "probe-sweep-seed-0": run_record(0.8, 12.0, cache=2.0, tried=(9.0, 8.0)),
        "probe-mean-seed-0": run_record(0.6, 12.0, cache=2.0),
    }
    write_json(tmp_path / "study-r8.json", {"runs": runs})
    tests = {"probe - stock-lora": {"p_value": 0.01, "difference": -0.1}}
    write_json(tmp_path / "study-r8-comparisons.json", {"comparisons": tests})
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    return tmp_path


def test_features_that_another_run_left_are_counted(results: Path) -> None:
    assert study.tuning_seconds(R8, "probe") == pytest.approx((30 + 30) / 2)
    assert study.tuning_seconds(R8, "probe-mean") == pytest.approx(12 - 2 + 20)
    assert study.tuning_seconds(R8, "probe-no-mix") == pytest.approx(18)
    assert study.tuning_seconds(R8, "probe-sweep") == pytest.approx(12 - 2 + 20 + 9 + 8)
    assert study.tuning_seconds(R8, "stock-lora") == pytest.approx(400)


def test_runs_on_a_gpu_have_scores_and_no_processor_time(results: Path) -> None:
    record = read_json(results / "study-r8.json")
    record["runs"] |= {
        "probe-seed-2": run_record(0.5, 2.0, cache=900.0, gpus=("a GPU",)),
        "full-seed-1": run_record(0.9, 3.0, gpus=("a GPU",)),
    }
    write_json(results / "study-r8.json", record)
    assert study.mean_score(R8, "probe") == pytest.approx(0.7)
    assert study.tuning_seconds(R8, "probe") == pytest.approx(30)
    assert study.tuning_seconds(R8, "full") is None
    assert "ours, full" not in plot.svg()


def test_a_row_keeps_neither_classes_nor_examples_of_errors() -> None:
    split = {
        "rows": 2,
        "scores": {"f1": 0.5, "f1/PER": 0.4},
        "errors": {"border": ["a sentence"]},
        "predictions_file": "p",
    }
    results = {"training": {"seconds": 1, "history": [1]}, "splits": {"test": split}}
    assert runner.shortened(results, by_class=False)["splits"]["test"] == {"rows": 2, "scores": {"f1": 0.5}}
    whole = runner.shortened(results)
    assert whole["splits"]["test"] == {name: value for name, value in split.items() if name != "predictions_file"}
    assert whole["training"] == {"seconds": 1}


def test_tables_show_what_was_trained_and_what_is_sure(results: Path) -> None:
    lines = study.table(FULL, study.SYSTEMS, "corner")
    swept = "| ours, probe, the better of two rates | 0.800 |"
    assert lines[2:] == ["| stock head, LoRA | 0.800 |", "| ours, probe | 0.800 − |", swept]
    assert lines[0].count("|") == 3
    (results / "study-r8.json").unlink()
    assert study.table(FULL, study.SYSTEMS, "corner") == [] == study.tables()


def test_the_plot_has_a_dot_for_each_row_and_the_same_bytes(results: Path) -> None:
    first = plot.svg()
    assert first == plot.svg()
    names = [title.text or "" for title in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}title")]
    swept = "ours, probe, the better of two rates: 0.800, 47 s"
    assert names == ["stock head, LoRA: 0.800, 400 s", "ours, probe: 0.800, 30 s", swept]


def test_results_of_the_repository_are_written_alike_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = {path: path.read_bytes() for path in (tables.README, tables.PLOT)}
    copies = {name: tmp_path / name for name in ("README.md", "study.svg")}
    copies["README.md"].write_bytes(committed[tables.README])
    monkeypatch.setattr(tables, "README", copies["README.md"])
    monkeypatch.setattr(tables, "PLOT", copies["study.svg"])
    monkeypatch.setattr("sys.argv", ["tables.py"])
    for _ in range(2):
        tables.main()
        assert [path.read_bytes() for path in copies.values()] == list(committed.values())


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_can_be_read(path: Path) -> None:
    experiment = read_yaml(path)
    plan = list(runner.planned(experiment))
    assert len(plan) == len(dict(plan)) > 0
    assert set(experiment.get("against", [])) - {"conll2003/stock-full-2e-4"} <= set(experiment.get("rows", {}))
    for _, settings in plan:
        kind, _ = runner.RECIPES[settings.pop("recipe", "classification")]
        settings.pop("draw", None)
        if settings.get("tuning") == "probe+lora" and "probe+lora" not in get_args(get_type_hints(kind)["tuning"]):
            continue  # rows that wait for this tuning
        build_arguments({**settings, "output_dir": "run"}, kind=kind)


def test_columns_of_the_tables_are_experiments() -> None:
    for column in (*study.FULL, *study.ABLATED, *study.MPNET, *study.FEW):
        experiment = read_yaml(EXPERIMENTS / f"{column.experiment}.yaml")
        assert column.metric == experiment["metric"] and column.against in experiment["against"]
        assert set(experiment["rows"]) <= {*study.SYSTEMS, *study.ABLATIONS}


def write_predictions(folder: Path, name: str, references: list[int], outputs: np.ndarray) -> None:
    rows = [
        {"row": number, "reference": reference, "output": output}
        for number, (reference, output) in enumerate(zip(references, outputs.tolist(), strict=True))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two seeds of a good and a poor classifier on the same 60 rows, of a third on others."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(compare, "HERE", tmp_path)
    run = {"task": "text-classification", "problem": "single_label_classification", "label_names": ["a", "b"]}
    write_json(tmp_path / "results" / "tiny.json", {"runs": {"good-seed-0": run}})
    references = random.integers(0, 2, 60).tolist()
    for seed in range(2):
        for name, wrong in (("good", 6 + seed), ("poor", 24 + seed)):
            right = np.eye(2)[references] * 0.8 + 0.1
            right[:wrong] = right[:wrong, ::-1]
            write_predictions(tmp_path / "predictions" / "tiny", f"{name}-seed-{seed}", references, right)
            write_predictions(tmp_path / "predictions" / "tiny", f"{name}-seed-{seed}.far", references, right)
    write_predictions(tmp_path / "predictions" / "tiny", "other-seed-0", references[::-1], np.eye(2)[references])
    return tmp_path


def test_the_mean_over_seeds_is_compared(answers: Path) -> None:
    found = compare.compare("tiny", "good", "poor", "accuracy")
    assert found["seeds"] == [0, 1] and found["value_a"] == pytest.approx((54 + 53) / 120)
    assert found["difference"] == pytest.approx(18 / 60) and found["low"] > 0.1 and found["p_value"] < 0.01
    same = compare.compare("tiny", "good", "tiny/good", "accuracy", "far")
    assert same["difference"] == 0 and same["p_value"] == 1


def test_other_rows_are_not_compared(answers: Path) -> None:
    with pytest.raises(ValueError, match="other rows"):
        compare.compare("tiny", "good", "other", "accuracy")
    with pytest.raises(ValueError, match="no predictions of a seed"):
        compare.compare("tiny", "good", "nobody", "accuracy")


def test_an_experiment_says_what_is_compared(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = {
        "settings": {"test_files": {"far": "x"}},
        "rows": {"good": {}, "poor": {}, "missing": {}},
        "against": ["poor"],
        "metric": "accuracy",
    }
    (answers / "experiments").mkdir()
    (answers / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    by_hand = {f"{ours} - poor": {"ours": ours, "theirs": "poor"} for ours in ("gone", "other")}
    write_json(answers / "results" / "tiny-comparisons.json", {"comparisons": by_hand})
    monkeypatch.setattr("sys.argv", ["compare.py", "tiny"])
    compare.main()
    found = json.loads((answers / "results" / "tiny-comparisons.json").read_text())["comparisons"]
    assert list(found) == ["other - poor", "good - poor", "good - poor @ far"]


def test_splits_with_other_rows_are_drawn_each_for_itself() -> None:
    run = {"problem": "single_label_classification", "label_names": ["a", "b"]}
    rows = [{"row": i, "reference": i % 2, "output": [0.9, 0.1] if i % 2 == 0 else [0.2, 0.8]} for i in range(20)]
    wrong = [{**row, "output": row["output"][::-1]} for row in rows]
    turned = [{**row, "reference": 1 - row["reference"], "output": row["output"][::-1]} for row in rows[:10]]
    found = compare.compare_texts([(rows, wrong), (turned, turned)], run, "accuracy")
    assert (found.value_a, found.value_b) == (1.0, pytest.approx(0.5))
