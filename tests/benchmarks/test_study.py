"""Tables, plot and paired tests of the study, from results files made here and from those of the repository."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from benchmarks.quality import compare, plot, predictions, study, tables, yardstick
from benchmarks.quality import run as runner
from benchmarks.quality.study import FULL
from benchmarks.records import (
    EXPERIMENTS,
    RESULTS,
    content_of,
    experiments_in,
    read_results,
    rounded,
    write_results,
)
from hf_selfattn import build_arguments

R8 = FULL[0]
SCORES = {"test": {"f1": [1 / 3, 0, 1]}}


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
        "scores": {"test": {"macro_f1": [score, score - 0.05, score + 0.04]}},
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
    tests = {"probe - stock-lora": {"p_value": 0.01, "difference": -0.1}}
    write_results(tmp_path / "study-r8.json", {"runs": runs, "comparisons": tests})
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    return tmp_path


def test_features_that_another_run_left_are_counted(results: Path) -> None:
    assert study.tuning_seconds(R8, "probe") == pytest.approx((30 + 30) / 2)
    assert study.tuning_seconds(R8, "probe-mean") == pytest.approx(12 - 2 + 20)
    assert study.tuning_seconds(R8, "probe-no-mix") == pytest.approx(18)
    assert study.tuning_seconds(R8, "probe-sweep") == pytest.approx(12 - 2 + 20 + 9 + 8)
    assert study.tuning_seconds(R8, "stock-lora") == pytest.approx(400)


def test_rows_of_a_later_experiment_stand_in_the_same_column(results: Path) -> None:
    tests = {"contrastive - study-r8/stock-lora": {"p_value": 0.01, "difference": 0.1}}
    runs = {"contrastive-seed-0": run_record(0.95, 15.0)}
    write_results(results / "later.json", {"runs": runs, "comparisons": tests})
    column = replace(R8, later="later")
    assert study.cell(column, "contrastive") == "0.950 +" and study.cell(R8, "contrastive") == ""
    assert study.cell(column, "stock-lora") == study.cell(R8, "stock-lora")


def test_runs_on_a_gpu_have_scores_and_no_processor_time(results: Path) -> None:
    record = read_results(results / "study-r8.json")
    record["runs"] |= {
        "probe-seed-2": run_record(0.5, 2.0, cache=900.0, gpus=("a GPU",)),
        "full-seed-1": run_record(0.9, 3.0, gpus=("a GPU",)),
    }
    write_results(results / "study-r8.json", record)
    assert study.mean_score(R8, "probe") == pytest.approx([0.7, 0.65, 0.74])
    assert study.tuning_seconds(R8, "probe") == pytest.approx(30)
    assert study.tuning_seconds(R8, "full") is None
    assert "ours, full" not in plot.svg()


def test_a_results_file_keeps_neither_classes_nor_examples_of_errors() -> None:
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    split = {
        "rows": 2,
        "scores": {"f1": score, "f1/PER": score},
        "errors": {"border": ["a sentence"]},
        "predictions_file": "p",
    }
    results = {
        "seed": 3,
        "arguments": {"train": "runs/drawn/train.jsonl", "options": {"seed": 3, "max_steps": 1}},
        "training": {
            "seconds": 1,
            "history": [{"loss": 1, "step": 2}, {"eval_f1": 0.5, "step": 4}],
            "phases": {"probe": {"seconds": 2, "history": [1]}},
        },
        "splits": {"test": split},
        "baseline": {"tfidf": {"seconds": 1, "splits": {"test": split}}},
    }
    assert runner.shortened(results, {"train": "train.jsonl", "draw": {"train_rows": 2}}) == {
        "seed": 3,
        "arguments": {"train": "train.jsonl", "options": {"max_steps": 1}},
        "draw": {"train_rows": 2},
        "training": {"seconds": 1, "phases": {"probe": {"seconds": 2}}, "curve": [[4, 0.5]]},
        "data": {"test": {"rows": 2}},
        "scores": {"test": {"f1": [0.5, 0.4, 0.6]}},
        "baseline": {"tfidf": {"test": {"f1": [0.5, 0.4, 0.6]}}},
    }


def test_results_files_come_back_whole_and_say_once_what_runs_share(tmp_path: Path) -> None:
    runs = {
        "a": {
            "arguments": {"heads": {}, "rate": 1e-3, "new": None},
            "seed": 0,
            "scores": {"test": {"f1": [1 / 3, 0, 1]}},
        },
        "b": {"arguments": {"heads": {"x": 1}, "rate": 1e-3}, "seed": 1, "scores": SCORES},
        "c": {"arguments": {"heads": {"x": 1}, "rate": 2e-3, "new": 2}, "seed": 1, "draw": {"rows": 1}, "scores": {}},
    }
    path = tmp_path / "tiny.json"
    write_results(path, {"experiment": "tiny", "comparisons": {}, "runs": runs})
    written = json.loads(path.read_text())
    assert written["shared"] == {"arguments": {"heads": {}, "rate": 1e-3}} and written["runs"]["a"]["seed"] == 0
    assert written["runs"]["b"]["arguments"] == {"heads": {"x": 1}}
    first, record = path.read_bytes(), read_results(path)
    assert record["runs"] == rounded(runs) and record["runs"]["a"]["scores"]["test"]["f1"][0] == 0.333333
    write_results(path, record)
    assert path.read_bytes() == first


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_files_are_small_and_written_alike_twice(path: Path, tmp_path: Path) -> None:
    experiments = experiments_in(path)
    for experiment in experiments:
        write_results(tmp_path / experiment.name, read_results(experiment))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert path.stat().st_size < 250_000 * len(experiments)


def test_a_study_on_several_data_sets_has_one_file(tmp_path: Path) -> None:
    one, other = (tmp_path / f"study-few-{name}.json" for name in ("r8-8", "movies-8"))
    assert read_results(one) == {"experiment": "study-few-r8-8", "runs": {}}
    runs = {"a": {"seed": 0, "scores": {}}, "b": {"seed": 1, "scores": {}}}
    for path in (one, other, one):
        write_results(path, {**read_results(path), "runs": runs})
    assert experiments_in(tmp_path / "study-few.json") == [one, other] and experiments_in(one) == [one]
    assert read_results(one)["runs"] == read_results(other)["runs"] == runs
    assert content_of(tmp_path / "study-few.json")["r8-8"]["experiment"] == "study-few-r8-8"


def test_tables_show_what_was_trained_and_what_is_sure(results: Path) -> None:
    lines = study.table(FULL, study.SYSTEMS, "corner")
    swept = "| ours, probe, the better of two rates | 0.800 |"
    assert lines[2:] == ["| stock head, LoRA | 0.800 |", "| ours, probe | 0.800 − |", swept]
    assert lines[0].count("|") == 3
    (results / "study-r8.json").unlink()
    assert study.table(FULL, study.SYSTEMS, "corner") == []


def test_the_plot_has_a_dot_for_each_row_and_the_same_bytes(results: Path) -> None:
    first = plot.svg()
    assert first == plot.svg()
    names = [title.text or "" for title in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}title")]
    swept = "ours, probe, the better of two rates: 0.800, 47 s"
    assert names == ["stock head, LoRA: 0.800, 400 s", "ours, probe: 0.800, 30 s", swept]


def test_a_baseline_below_the_linear_models_has_no_score(results: Path) -> None:
    record = read_results(results / "study-r8.json")
    record["runs"] |= {"tfidf-seed-0": run_record(0.7, 1.0), "embedding-lr-seed-0": run_record(0.81, 1.0)}
    record["runs"] |= {"stock-full-seed-0": run_record(0.82, 1.0), "lora-seed-0": run_record(0.85, 1.0)}
    write_results(results / "study-r8.json", record)
    assert (study.cell(R8, "stock-lora"), study.cell(R8, "stock-full")) == ("", "0.820")
    assert study.cell(R8, "probe") == "0.800", "nothing is ahead of, or behind, a model that has not learned"


def test_the_readme_has_ours_beside_the_better_of_the_tuned_stock_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"auto-seed-0": 0.8, "auto-seed-1": 0.9, "stock-full-seed-0": 0.82, "stock-lora-all-seed-0": 0.5}
    runs = {name: run_record(score, 10.0) for name, score in scores.items()}
    curve = [[10, 0.25], [20, 0.5], [30, 0.75], [40, 0.625]]
    runs["auto-seed-0"]["training"] |= {"curve": curve, "steps": 40}
    runs["auto-seed-1"]["training"] |= {"curve": [[15, 0.5]], "steps": 15}
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    write_results(tmp_path / "yardstick-r8.json", {"runs": runs})
    ours, stock = "0.850 [0.800, 0.890]", "0.820 [0.770, 0.860]"
    assert yardstick.headline()[2:] == [
        f"| [R8](benchmarks/results/yardstick-r8.json) | macro_f1 | {ours} | {stock} |  |"
    ]
    assert yardstick.curves()[2:] == ["| R8: ours, `tuning=auto` | 0.375 | 0.500 | 0.625 | 0.562 | 28 | 10 |"]
    assert study.cell(yardstick.YARDSTICK[0], "stock-lora-all") == "0.500"


def test_tables_of_the_repository_are_those_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: getattr(tables, name) for name in ("README", "ALL", "PLOT")}
    committed = {name: path.read_bytes() for name, path in places.items()}
    for name, path in places.items():
        monkeypatch.setattr(tables, name, tmp_path / f"{name}{path.suffix}")
        (tmp_path / f"{name}{path.suffix}").write_bytes(committed[name] if name != "PLOT" else b"")
    monkeypatch.setattr("sys.argv", ["tables.py"])
    for _ in range(2):
        tables.main()
        assert {name: getattr(tables, name).read_bytes() for name in places} == committed
    rows = [line for line in places["README"].read_text().split("results -->")[1].splitlines() if "|" in line]
    assert 4 <= len(rows) <= 14
    tables.README.write_bytes(committed["README"].replace(b"0.8", b"0.9"))
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit, match="README.md: behind"):
        tables.main()


@pytest.mark.parametrize(
    "path",
    [experiment for path in sorted(EXPERIMENTS.glob("*.yaml")) for experiment in experiments_in(path)],
    ids=lambda path: path.stem,
)
def test_every_experiment_can_be_read(path: Path) -> None:
    experiment = content_of(path)
    plan = list(runner.planned(experiment))
    assert len(plan) == len(dict(plan)) > 0
    for name in experiment.get("against", []):
        other, row = compare.place_of(path.stem, name)
        assert row in content_of(EXPERIMENTS / f"{other}.yaml").get("rows", {})
    for _, settings in plan:
        kind, _ = runner.RECIPES[settings.pop("recipe", "classification")]
        settings.pop("draw", None)
        if settings.get("tuning") == "probe+lora" and "probe+lora" not in get_args(get_type_hints(kind)["tuning"]):
            continue  # rows that wait for this tuning
        build_arguments({**settings, "output_dir": "run"}, kind=kind)


def test_columns_of_the_tables_are_experiments() -> None:
    texts = (*study.FULL, *study.ABLATED, *study.MPNET, *study.FEW)
    for columns, titles in (
        (texts, {*study.SYSTEMS, *study.ABLATIONS}),
        (study.IMAGES, {*study.IMAGE_HEADS}),
        (study.SOUNDS, {*study.SOUND_HEADS}),
        (study.SPEECH, {*study.RECOGNISERS}),
    ):
        for column in columns:
            experiment = content_of(EXPERIMENTS / f"{column.experiment}.yaml")
            assert column.metric == experiment["metric"] and column.against in experiment["against"]
            assert set(experiment["rows"]) <= titles
            if column.later:
                assert set(content_of(EXPERIMENTS / f"{column.later}.yaml")["rows"]) <= titles


def write_predictions(folder: Path, name: str, references: list[int], outputs: np.ndarray) -> None:
    rows = [
        {"row": number, "reference": reference, "output": output}
        for number, (reference, output) in enumerate(zip(references, outputs.tolist(), strict=True))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two seeds of a good and a poor classifier on the same 60 rows, fetched, and one's own of another on others."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    monkeypatch.setattr(compare, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(predictions, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("HF_SELFATTN_DATA", str(tmp_path / "data"))
    run = {"task": "text-classification", "problem": "single_label_classification", "label_names": ["a", "b"]}
    names = ("good-seed-0", "good-seed-1", "poor-seed-0", "poor-seed-1", "other-seed-0", "unsaved-seed-0")
    runs = {name: {**run, "seed": int(name[-1]), "scores": {}} for name in names}
    write_results(tmp_path / "tiny.json", {"runs": runs})
    fetched, references = tmp_path / "data" / "predictions" / "tiny", random.integers(0, 2, 60).tolist()
    for seed in range(2):
        for name, wrong in (("good", 6 + seed), ("poor", 24 + seed)):
            right = np.eye(2)[references] * 0.8 + 0.1
            right[:wrong] = right[:wrong, ::-1]
            write_predictions(fetched, f"{name}-seed-{seed}", references, right)
            write_predictions(fetched, f"{name}-seed-{seed}.far", references, right)
    own = tmp_path / "runs" / "tiny" / "predictions"
    write_predictions(own, "other-seed-0", references[::-1], np.eye(2)[references])
    return tmp_path


def test_the_mean_over_seeds_is_compared(answers: Path) -> None:
    found = compare.compare("tiny", "good", "poor", "accuracy")
    assert found["seeds"] == [0, 1] and found["value_a"] == pytest.approx((54 + 53) / 120)
    assert found["difference"] == pytest.approx(18 / 60) and found["low"] > 0.1 and found["p_value"] < 0.01
    same = compare.compare("tiny", "good", "tiny/good", "accuracy", "far")
    assert same["difference"] == 0 and same["p_value"] == 1


def test_what_cannot_be_compared_says_why(answers: Path) -> None:
    with pytest.raises(ValueError, match="other rows"):
        compare.compare("tiny", "good", "other", "accuracy")
    with pytest.raises(ValueError, match="share no seed"):
        compare.compare("tiny", "good", "nobody", "accuracy")
    with pytest.raises(ValueError, match="unsaved-seed-0: run python benchmarks/fetch.py predictions"):
        compare.compare("tiny", "good", "unsaved", "accuracy")


def test_own_predictions_come_before_fetched_ones(answers: Path) -> None:
    fetched = predictions.predictions_of("tiny", "good")
    assert set(fetched) == {0, 1} and set(predictions.predictions_of("tiny", "good", "far")) == {0, 1}
    write_predictions(answers / "runs" / "tiny" / "predictions", "good-seed-1", [0], np.eye(2)[[0]])
    own = predictions.predictions_of("tiny", "good")
    assert own[0] == fetched[0] and len(predictions.read_rows(own[1])) == 1


def test_an_experiment_says_what_is_compared(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = {
        "settings": {"test_files": {"far": "x"}},
        "rows": {"good": {}, "poor": {}, "missing": {}},
        "against": ["poor"],
        "metric": "accuracy",
    }
    (answers / "tiny.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    record = read_results(answers / "tiny.json")
    by_hand = {f"{ours} - poor": {"p_value": 1} for ours in ("gone", "other")}
    write_results(answers / "tiny.json", {**record, "comparisons": by_hand})
    monkeypatch.setattr("sys.argv", ["compare.py", "tiny"])
    compare.main()
    found = read_results(answers / "tiny.json")
    assert list(found["comparisons"]) == ["other - poor", "good - poor", "good - poor @ far"]
    assert found["runs"] == record["runs"]


def test_splits_with_other_rows_are_drawn_each_for_itself() -> None:
    run = {"problem": "single_label_classification", "label_names": ["a", "b"]}
    rows = [{"row": i, "reference": i % 2, "output": [0.9, 0.1] if i % 2 == 0 else [0.2, 0.8]} for i in range(20)]
    wrong = [{**row, "output": row["output"][::-1]} for row in rows]
    turned = [{**row, "reference": 1 - row["reference"], "output": row["output"][::-1]} for row in rows[:10]]
    found = compare.compare_rows([(rows, wrong), (turned, turned)], run, "accuracy")
    assert (found.value_a, found.value_b) == (1.0, pytest.approx(0.5))


def test_seeds_with_the_same_rows_are_not_drawn_twice() -> None:
    run = {"problem": "single_label_classification", "label_names": ["a", "b"]}
    rows = [{"row": i, "reference": i % 2, "output": [0.9, 0.1] if i % 3 else [0.2, 0.8]} for i in range(30)]
    other = [{**row, "reference": 1 - row["reference"]} for row in rows[:20]]
    right = [{**row, "output": [1.0 - row["reference"], float(row["reference"])]} for row in rows]
    pairs = [(right, rows), (other, rows[:20])]
    pairs[1] = (other, [{**row, "output": row["output"][::-1]} for row in other])
    once, twice = (compare.compare_rows(given, run, "accuracy") for given in (pairs, [*pairs, *pairs]))
    assert once.as_dict() == pytest.approx(twice.as_dict(), abs=0.02)


def test_transcripts_are_compared_by_their_error_rate() -> None:
    good = [
        {"row": i, "reference": "one two three", "output": "one two three" if i % 3 else "one two"} for i in range(30)
    ]
    poor = [{**row, "output": "one"} for row in good]
    found = compare.compare_transcripts([(good, poor), (good, poor)], "wer")
    assert (found.value_a, found.value_b) == (pytest.approx(1 / 9), pytest.approx(2 / 3))
    assert found.p_value < 0.01 and not study.is_gain({"difference": 0.1}, "wer")
    assert study.is_gain({"difference": 0.1}, "accuracy")
