"""The hyper-parameter search: what may be searched, the trials, and the run of the best settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from runs import HEADS, QUICK, probe_arguments, stopped_after, text_arguments, with_callback
from tiny_models import tiny_text
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainerCallback
from warm_python import warm_environment, warm_launcher, warm_python

from hf_selfattn import NerArguments, TextClassificationArguments, parse_arguments, run
from hf_selfattn.training.search_space import Choices, Range, read_search, read_space, with_settings

ROOT = Path(__file__).parents[2]
RATE = {"learning_rate": {"low": "1e-4", "high": "1e-2", "log": True}}


def write_rows(path: Path, count: int, seed: int = 0) -> str:
    """Rows whose label shows in the first word."""
    rows = (
        {"text": f"w{10 + i % 3} {tiny_text(5, seed=1000 * seed + i)}", "label": ("left", "right", "up")[i % 3]}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def settings(backbone: str, folder: Path, space: dict[str, Any], trials: int = 2, **changes: Any) -> dict[str, Any]:
    search = {"trials": trials, "space": space, **changes.pop("search", {})}
    return {
        "model": backbone,
        "output_dir": str(folder / "run"),
        "train": write_rows(folder / "train.jsonl", 36),
        "validation": write_rows(folder / "validation.jsonl", 24, seed=1),
        "test": write_rows(folder / "test.jsonl", 9, seed=2),
        "heads": HEADS,
        "baseline": False,
        "search": search,
        **QUICK,
        "per_device_train_batch_size": 8,
        **changes,
    }


def record_on_disk(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run/search.json").read_text(encoding="utf-8"))


def test_a_space_is_read() -> None:
    words = [
        "model=m",
        "output_dir=o",
        "search.trials=3",
        "search.space.learning_rate={low: 1e-4, high: 1, log: true}",
    ]
    words += ["search.space.heads.num_groups=[8, 16]", "search.space.weight_decay=[0, 0.1]"]
    words += ["search.space.class_weights=[balanced, null]", "search.space.lora.r={low: 4, high: 32, step: 4}"]
    plan = read_search(parse_arguments(words, TextClassificationArguments))
    assert (plan.kind, plan.trials, plan.storage) == ("search", 3, None)
    assert plan.space == {
        "learning_rate": Range(1e-4, 1.0, True),
        "heads.num_groups": Choices([8, 16]),
        "weight_decay": Choices([0.0, 0.1]),
        "class_weights": Choices(["balanced", None]),
        "lora.r": Range(4, 32, step=4),
    }


def test_settings_reach_their_places() -> None:
    arguments = TextClassificationArguments(heads={"head_dim": 8}, options={"seed": 1})
    settings = {"learning_rate": 0.1, "heads.num_groups": 2, "lora.r": 4, "class_weights": "balanced"}
    found = with_settings(arguments, settings)
    assert found.options == {"seed": 1, "learning_rate": 0.1} and found.heads == {"head_dim": 8, "num_groups": 2}
    assert found.lora == {"r": 4} and found.class_weights == "balanced"
    assert arguments.heads == {"head_dim": 8} and arguments.options == {"seed": 1}, "the arguments stay as they were"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": [1]}, "'lerning_rate' cannot be searched. Did you mean 'learning_rate'"),
        ({"heads.num_group": [1]}, "Did you mean 'heads.num_groups'"),
        ({"heads": {"num_group": [1]}}, "Did you mean 'heads.num_groups'"),
        ({"lora.rank": [1]}, "'lora.rank' cannot be searched"),
        ({"seed": [1, 2]}, "'seed' cannot be searched"),
        ({"selection_metric": ["loss"]}, "'selection_metric' cannot be searched"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-4}}, "learning_rate has low=0.01 and high=0.0001"),
        ({"lora.r": {"low": 4, "high": 4}}, "lora.r has low=4 and high=4"),
        ({"heads.num_groups": []}, "heads.num_groups is an empty list"),
        ({"heads.num_groups": [8, 8]}, "holds a value twice"),
        ({"heads.num_groups": [8, 9.5]}, "heads.num_groups takes whole numbers, not 9.5"),
        ({"lora.r": {"low": 0.5, "high": 4}}, "lora.r.low takes whole numbers, not 0.5"),
        ({"lora.target_modules": [["query"]]}, "holds ['query']"),
        ({"learning_rate": 1e-3}, "learning_rate=0.001 must be a list of values"),
        ({"learning_rate": {"low": 1, "hgh": 2}}, "must be a list of values"),
        ({"learning_rate": {"low": "small", "high": 2}}, "learning_rate.low='small' is no finite number"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "with low above 0"),
        ({"learning_rate": {"low": 0, "high": 1, "step": 0}}, "step=0"),
        ({"heads.fusion": {"low": 0, "high": 1}}, "heads.fusion is no number"),
        ({}, "must map keys"),
        ([1], "must map keys"),
    ],
)
def test_a_bad_space_is_named(space: Any, message: str) -> None:
    arguments = TextClassificationArguments(search={"space": space})
    with pytest.raises(ValueError) as caught:
        read_search(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"trails": 3}}, "no key 'trails'. Did you mean 'trials'"),
        ({"search": {"trials": 0}}, "search.trials=0"),
        ({"search": {"pruner": "median"}}, "search: there is no key 'pruner'. It is one of trials, space, storage"),
        ({"search": {"timeout": 60}}, "search: there is no key 'timeout'"),
        ({"search": {"storage": 5}}, "search.storage=5 must be a file or the URL of a database"),
        ({"folds": 3}, "search and folds=3 cannot go together"),
        ({"tuning": "full", "search": {"space": {"lora.r": [1, 2]}}}, "lora.r says nothing with tuning='full'"),
        ({"search": {"space": {"layer_decay": [0.9, 1]}}}, "'layer_decay' cannot be searched"),
    ],
)
def test_a_bad_plan_is_named_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given = {"model": "m", "output_dir": str(tmp_path / "run"), "train": "nowhere.csv", **changes}
    given["search"] = {"space": RATE, **changes.get("search", {})}
    with pytest.raises(ValueError) as caught:
        run(text_arguments(given))
    assert message in str(caught.value) and not (tmp_path / "run").exists()


def test_entities_have_no_loss_to_search() -> None:
    space = {"class_weights": ["balanced", None]}
    assert read_space(space, TextClassificationArguments(), "search.space")
    with pytest.raises(ValueError, match="'class_weights' cannot be searched"):
        read_space(space, NerArguments(), "search.space")


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_selfattn.training.search_space.is_optuna_available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install optuna"):
        run(text_arguments({"model": "m", "output_dir": str(tmp_path), "train": "t.csv", "search": {"space": RATE}}))


def test_the_best_trial_is_trained_again_tested_and_saved(tiny_backbone: str, tmp_path: Path) -> None:
    space = {
        **RATE,
        "per_device_train_batch_size": [4, 8],
        "heads": {"num_groups": [2, 4], "head_dropout": [0.1, 0.2]},
        "lora.r": {"low": 2, "high": 8},
        "class_weights": ["balanced", None],
    }
    given = settings(tiny_backbone, tmp_path, space, trials=3, num_train_epochs=2)
    results = run(text_arguments(given))
    record = results["search"]
    assert record == record_on_disk(tmp_path) and record["counts"] == {"complete": 3}
    assert (record["metric"], record["direction"], record["planned"]) == ("macro_f1", "maximize", 3)
    best = max(record["trials"], key=lambda trial: trial["value"])
    assert record["best"] == {name: best[name] for name in ("number", "value", "settings")}
    assert len({json.dumps(trial["settings"]) for trial in record["trials"]}) == 3

    # The run of the best settings is the best trial over again.
    assert results["training"]["best_metric"] == pytest.approx(best["value"], abs=1e-9)
    assert results["arguments"]["lora"] == {"r": best["settings"]["lora.r"]}
    assert results["arguments"]["options"]["learning_rate"] == best["settings"]["learning_rate"]
    assert results["splits"]["test"]["rows"] == 9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.num_groups == best["settings"]["heads.num_groups"]
    assert not list((tmp_path / "run/search").rglob("*.safetensors")), "trials leave no weights"
    assert run(text_arguments(given)) == results, "a finished run is read"


def test_full_tuning_and_a_metric_that_falls(tiny_backbone: str, tmp_path: Path) -> None:
    space = {"heads_learning_rate": [1e-3, 1e-2], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    changes = {"tuning": "full", "selection_metric": "nll", "num_train_epochs": 3, "early_stopping_patience": 1}
    results = run(text_arguments(settings(tiny_backbone, tmp_path, space, trials=3, **changes)))
    record = results["search"]
    assert record["direction"] == "minimize"
    assert record["best"]["value"] == min(trial["value"] for trial in record["trials"])
    assert results["training"]["best_metric"] == pytest.approx(record["best"]["value"], abs=1e-6)


def test_the_search_never_sees_the_test_split(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end(*_: Any) -> None:
        raise Ended

    monkeypatch.setattr("hf_selfattn.training.run.train_and_evaluate", end)
    evaluate, seen = Trainer.evaluate, set()

    def recorded(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        seen.add(len(self.eval_dataset))
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr("transformers.Trainer.evaluate", recorded)
    monkeypatch.setattr("transformers.Trainer.predict", lambda *_, **__: pytest.fail("predicted in the search"))
    found = []
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
        given = settings(tiny_backbone, tmp_path / name, RATE)
        if name == "wrong":
            test = Path(given["test"])
            test.write_text(test.read_text().replace("left", "?").replace("right", "left").replace("?", "right"))
        with pytest.raises(Ended):
            run(text_arguments(given))
        found.append([(trial["value"], trial["settings"]) for trial in record_on_disk(tmp_path / name)["trials"]])
    assert seen == {24}, "only the validation split is evaluated"
    assert found[0] == found[1]


def test_trials_on_a_wide_backbone_have_its_rate(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = text_arguments(settings(tiny_backbone, tmp_path, {"weight_decay": [0.0, 0.1]}))
    monkeypatch.setattr("hf_selfattn.training.setup.WIDTH", AutoConfig.from_pretrained(tiny_backbone).hidden_size // 2)
    rates: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rates.append(args.learning_rate)

    with_callback(monkeypatch, Watch())
    with stopped_after(trainings=1):
        run(arguments)
    assert rates == [pytest.approx(2.5e-4)]


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, {"heads.block_size": [8, -1], **RATE}, trials=5)
    record = run(text_arguments(given))["search"]
    assert record["counts"]["failed"] >= 1 and record["counts"]["complete"] >= 1
    for trial in record["trials"]:
        failed = trial["settings"]["heads.block_size"] == -1
        assert trial["state"] == ("failed" if failed else "complete")
        assert ("error" in trial) == failed
        if failed:
            assert "block_size" in trial["error"] and trial["value"] is None
    assert record["best"]["settings"]["heads.block_size"] == 8


def test_a_search_of_failures_says_why(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, {"heads.block_size": [-1, -2]})
    with pytest.raises(ValueError, match=r"No trial of the search ended well; the first error: .*block_size"):
        run(text_arguments(given))
    assert record_on_disk(tmp_path)["best"] is None and not (tmp_path / "run/results.json").exists()


def test_two_phases_are_searched(tiny_backbone: str, tmp_path: Path) -> None:
    space = {"probe_learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, **RATE, "lora": {"r": [2, 4]}}
    changes = {"tuning": "probe+lora", "num_train_epochs": 1, "selection_metric": "nll"}
    results = run(probe_arguments(tiny_backbone, tmp_path, search={"trials": 3, "space": space}, **changes))
    record, phases = results["search"], results["training"]["phases"]
    assert record["counts"] == {"complete": 3} and list(phases) == ["probe", "lora"]
    best = record["best"]["settings"]
    assert best.keys() == {"probe_learning_rate", "learning_rate", "lora.r"}
    assert results["arguments"]["probe_learning_rate"] == best["probe_learning_rate"]
    assert results["training"]["best_metric"] == pytest.approx(record["best"]["value"], abs=1e-9)
    assert phases["probe"]["feature_cache"]["computed_rows"] == 0, "the features of all trials are computed once"
    assert not list((tmp_path / "run/search").iterdir()), "trials leave no weights"


def test_a_search_that_was_stopped_goes_on_with_the_trials_done(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, RATE, trials=4)

    with stopped_after(trainings=2):
        run(text_arguments(given))
    before = record_on_disk(tmp_path)
    assert [trial["state"] for trial in before["trials"]][:1] == ["complete"] and before["best"] is None
    record = run(text_arguments(given))["search"]
    assert record["counts"] == {"complete": 4, "stopped": 1}
    stopped = next(trial for trial in record["trials"] if trial["state"] == "stopped")
    values = [trial["settings"] for trial in record["trials"] if trial["state"] == "complete"]
    assert stopped["settings"] in values, "the trial that was cut off is repeated"
    assert len({trial["learning_rate"] for trial in values}) == 4, "nothing is drawn twice"
    assert record["trials"][0] == before["trials"][0]


def test_several_seeds_train_the_settings_found(tiny_backbone: str, tmp_path: Path) -> None:
    results = run(text_arguments(settings(tiny_backbone, tmp_path, RATE, seeds=2)))
    rate = results["search"]["best"]["settings"]["learning_rate"]
    assert list(results["runs"]) == ["seed-0", "seed-1"]
    assert {entry["arguments"]["options"]["learning_rate"] for entry in results["runs"].values()} == {rate}
    assert "search" not in results["runs"]["seed-0"]


def command(given: dict[str, Any], *launcher: str) -> list[str]:
    return [
        *launcher,
        "recipes/text_classification.py",
        *(f"{key}={json.dumps(value)}" for key, value in given.items()),
    ]


def environment(**changes: str) -> dict[str, str]:
    return warm_environment(HF_HUB_OFFLINE="1", **changes)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_same_command(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, RATE, trials=4, num_train_epochs=3)
    words = command(given, warm_python())
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run/search.json").exists() or "complete" not in record_on_disk(tmp_path)["counts"]:
        assert process.poll() is None and time.monotonic() < deadline, "no trial ended in time"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = [trial for trial in record_on_disk(tmp_path)["trials"] if trial["state"] == "complete"]
    subprocess.run(words, cwd=ROOT, check=True, env=environment(), timeout=300)
    record = json.loads((tmp_path / "run/results.json").read_text())["search"]
    assert record["counts"]["complete"] == 4 and record["trials"][: len(done)] == done


@pytest.mark.slow
def test_two_processes_search_together(tiny_backbone: str, tmp_path: Path) -> None:
    launch = [*warm_launcher("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    given = settings(tiny_backbone, tmp_path, {**RATE, "heads.num_groups": [2, 4]}, trials=3)
    cpu = environment(ACCELERATE_USE_CPU="true")
    subprocess.run(command(given, *launch), cwd=ROOT, check=True, env=cpu, timeout=300)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["training"]["processes"] == 2 and results["search"]["counts"] == {"complete": 3}
    assert results["training"]["best_metric"] == pytest.approx(results["search"]["best"]["value"], abs=1e-6)
