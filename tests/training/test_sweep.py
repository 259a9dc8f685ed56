"""The sweep: every combination is trained on the same features, and the best one is the run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import probe_arguments, stopped_after, with_callback
from transformers import AutoModelForSequenceClassification, BertModel, Trainer, TrainerCallback

from hf_selfattn import NerArguments, run
from hf_selfattn.training.search_space import read_plan

GRID = {"learning_rate": ["1e-9", "1e-2"], "heads.num_grouped_attention_heads": [0, 4], "seed": [3, 5]}


def record_on_disk(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run/sweep.json").read_text(encoding="utf-8"))


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    arguments = probe_arguments("m", tmp_path, sweep={"learning_rate": [1, "1e-3"], "heads": {"num_groups": [2, 4]}})
    plan = read_plan(arguments)
    assert plan is not None and (plan.kind, plan.trials) == ("sweep", 4)
    assert list(plan.combinations()) == [
        {"learning_rate": rate, "heads.num_groups": groups} for rate in (1.0, 1e-3) for groups in (2, 4)
    ]
    assert read_plan(probe_arguments("m", tmp_path)) is None


def test_the_best_in_the_mean_over_seeds_is_trained_and_tested(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[bool] = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda *a, **k: (calls.append(True), forward(*a, **k))[1])
    seen: set[int] = set()
    evaluate = Trainer.evaluate
    monkeypatch.setattr(
        Trainer, "evaluate", lambda self, *a, **k: (seen.add(len(self.eval_dataset)), evaluate(self, *a, **k))[1]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_selfattn.training.run.train_and_evaluate", lambda *_: pytest.fail("swept"))
        with pytest.raises(pytest.fail.Exception, match="swept"):
            run(probe_arguments(tiny_backbone, tmp_path, sweep=GRID))
    assert len(calls) == 1 and seen == {12}, "one batch of features for all, and the test split is not read"

    arguments = probe_arguments(tiny_backbone, tmp_path, sweep=GRID)
    results = run(arguments)
    record = results["sweep"]
    assert len(record["trials"]) == 8 and record == record_on_disk(tmp_path)
    assert record["counts"] == {"complete": 8} and record["planned"] == 8
    assert len(record["combinations"]) == 4 and all(len(entry["values"]) == 2 for entry in record["combinations"])
    for entry in record["combinations"]:
        values = [one["value"] for one in record["trials"] if entry["settings"].items() <= one["settings"].items()]
        assert entry["values"] == values and entry["value"] == pytest.approx(sum(values) / 2)
    assert record["best"]["value"] == max(entry["value"] for entry in record["combinations"])
    assert record["best"]["settings"]["learning_rate"] == 1e-2 and record["metric"] == "macro_f1"
    said = capsys.readouterr().out
    assert "learning_rate  heads.num_grouped_attention_heads  macro_f1" in said and " ± " in said

    # The run of the best settings is the training of its first seed over again.
    first = next(one for one in record["trials"] if one["settings"] == {**record["best"]["settings"], "seed": 3})
    assert results["training"]["best_metric"] == first["value"] and results["seed"] == 3
    assert results["arguments"]["options"]["learning_rate"] == 1e-2 and results["arguments"]["sweep"] == {}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    heads = record["best"]["settings"]["heads.num_grouped_attention_heads"]
    assert model.config.num_grouped_attention_heads == heads
    assert results["splits"]["test"]["rows"] == 10 and not list((tmp_path / "run/sweep").iterdir())
    assert run(arguments) == results, "a finished run is read"


def test_a_sweep_that_was_stopped_goes_on(tiny_backbone: str, tmp_path: Path) -> None:
    arguments = probe_arguments(tiny_backbone, tmp_path, sweep={"heads.num_groups": [2, 4, 8]}, num_train_epochs=1)
    begun: list[Any] = []

    class Count(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(args)

    with stopped_after(trainings=2):
        run(arguments)
    before = record_on_disk(tmp_path)["trials"]
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, Count())
        record = run(arguments)["sweep"]
    ended = [trial for trial in before if trial["state"] == "complete"]
    assert len(ended) == 2 and record["trials"][:2] == ended
    assert record["counts"] == {"complete": 3, "stopped": 1} and len(record["combinations"]) == 3
    assert len(begun) == 1 + 1, "the third anew, and the best"


@pytest.mark.parametrize(
    ("tuning", "grid"),
    [
        ("lora", {"lora.r": [2, 4]}),
        ("full", {"heads_learning_rate": [1e-3, 0.1]}),
        ("probe+lora", {"probe_learning_rate": [1e-3, 1e-2]}),
    ],
)
def test_any_tuning_can_be_swept(tiny_backbone: str, tmp_path: Path, tuning: str, grid: dict[str, Any]) -> None:
    changes = {"tuning": tuning, "selection_metric": "nll", "learning_rate": 1e-2}
    results = run(probe_arguments(tiny_backbone, tmp_path, sweep=grid, **changes))
    values = [one["value"] for one in results["sweep"]["trials"]]
    assert results["training"]["best_metric"] == results["sweep"]["best"]["value"] == min(values) < max(values)


def test_several_seeds_and_entities(wordpiece: str, tmp_path: Path) -> None:
    grid = {"heads.decoding": ["argmax", "viterbi"]}
    results = run(probe_arguments(wordpiece, tmp_path, NerArguments, sweep=grid, seeds=2, num_train_epochs=1))
    decoding = results["sweep"]["best"]["settings"]["heads.decoding"]
    assert {one["arguments"]["heads"]["decoding"] for one in results["runs"].values()} == {decoding}
    assert list(results["runs"]) == ["seed-0", "seed-1"] and results["sweep"]["metric"] == "f1"


def test_a_combination_that_fails_is_recorded(tiny_backbone: str, tmp_path: Path) -> None:
    grid = {"heads.block_size": [-1, 8], "seed": [0, 1]}
    results = run(probe_arguments(tiny_backbone, tmp_path, sweep=grid, num_train_epochs=1))
    assert [one["value"] is None for one in results["sweep"]["trials"]] == [True, True, False, False]
    assert "block_size" in results["sweep"]["trials"][0]["error"]
    assert [entry["settings"] for entry in results["sweep"]["combinations"]] == [{"heads.block_size": 8}]
    broken = probe_arguments(tiny_backbone, tmp_path, sweep={"heads.block_size": [-1]}, output_dir=str(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"No trial of the sweep ended well; the first error: .*block_size"):
        run(broken)
    assert not (tmp_path / "b/results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"lerning_rate": [1]}}, "sweep: 'lerning_rate' cannot be searched. Did you mean 'learning_rate'"),
        ({"sweep": {"learning_rate": 1}}, r"sweep: learning_rate=1 must be a list of values, such as \[1\]"),
        ({"sweep": {"learning_rate": {"low": 1, "high": 2}}}, "must be a list of values"),
        ({"sweep": {"learning_rate": []}}, "sweep: learning_rate is an empty list"),
        ({"sweep": {"seed": [0, 0.5]}}, "sweep: seed takes whole numbers, not 0.5"),
        ({"sweep": {"lora.r": [2]}}, "sweep: lora.r says nothing with tuning='probe'; set tuning=lora"),
        ({"sweep": {"probe_epochs": [1, 2]}}, "probe_epochs=1 says nothing with tuning='probe'"),
        ({"sweep": {"learning_rate": [1]}, "folds": 3}, "sweep and folds=3 cannot go together"),
        ({"sweep": {"learning_rate": [1]}, "eval_strategy": "no"}, "with eval_strategy=no there is no score"),
        (
            {"sweep": {"learning_rate": [1]}, "search": {"space": {"learning_rate": [1]}}},
            "search and sweep cannot go together",
        ),
    ],
)
def test_a_bad_sweep_is_named_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(probe_arguments("m", tmp_path, train="nowhere.csv", **changes))
    assert not (tmp_path / "run").exists()
