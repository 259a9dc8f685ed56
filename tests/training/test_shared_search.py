"""Several machines share one search: the trials are divided, a machine that dies holds up no other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import HEADS, QUICK, rows_of, stopped_after, text_arguments, write_rows
from searches import search_together

from hf_selfattn import run
from hf_selfattn.training.search import is_waited_for, storage_of
from hf_selfattn.training.search_space import read_search

optuna = pytest.importorskip("optuna")
STORAGES = {"journal": "{folder}/shared/trials.log", "database": "sqlite:///{folder}/trials.db"}
RATE = {"learning_rate": {"low": "1e-4", "high": "1e-2", "log": True}}


def settings(backbone: str, folder: Path, storage: str, output_dir: str, trials: int) -> dict[str, Any]:
    """A run on the rows that all share, in a folder of its own."""
    kind = "single_label_classification"
    given = {
        "model": backbone,
        "output_dir": str(folder / output_dir),
        **{name: str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")},
        "heads": HEADS,
        "baseline": False,
        **QUICK,
        "selection_metric": "nll",
        "search": {"trials": trials, "space": RATE, "storage": STORAGES[storage].format(folder=folder)},
    }
    for seed, (split, count) in enumerate((("train", 36), ("validation", 24), ("test", 9))):
        write_rows(Path(given[split]), rows_of(kind, count, seed))
    return given


def study_of(given: dict[str, Any], folder: Path) -> Any:
    plan = read_search(text_arguments(given))
    return optuna.load_study(study_name="search", storage=storage_of(plan, folder))


def best_of(record: dict[str, Any]) -> float:
    return min(trial["value"] for trial in record["trials"] if trial["value"] is not None)


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES)
def test_two_machines_share_the_trials_and_train_the_same_best(
    storage: str, tiny_backbone: str, tmp_path: Path
) -> None:
    both = [settings(tiny_backbone, tmp_path, storage, name, trials=5) for name in ("one", "other")]
    search_together(both)
    results = [json.loads((Path(given["output_dir"]) / "results.json").read_text()) for given in both]
    records = [one["search"] for one in results]
    for record in records:
        assert record["counts"] == {"complete": 5}
        assert len({trial["settings"]["learning_rate"] for trial in record["trials"]}) == 5, "nothing is drawn twice"
    assert records[0]["best"] == records[1]["best"] and records[0]["trials"] == records[1]["trials"]
    assert len({trial.user_attrs["worker"] for trial in study_of(both[0], tmp_path).trials}) == 2
    assert results[0]["splits"]["test"]["scores"] == results[1]["splits"]["test"]["scores"]
    assert run(text_arguments(both[1])) == results[1], "a finished run is read"


def test_a_machine_that_goes_on_repeats_its_trial_and_no_other_does(tiny_backbone: str, tmp_path: Path) -> None:
    one, other = (settings(tiny_backbone, tmp_path, "journal", name, trials=3) for name in ("one", "other"))
    with stopped_after(trainings=1):
        run(text_arguments(one))
    with stopped_after(trainings=1):
        run(text_arguments(other))
    states = [trial.state.name for trial in study_of(one, tmp_path).trials]
    assert states == ["COMPLETE", "RUNNING", "COMPLETE"], "each ended one, and the first was stopped in another"
    results = run(text_arguments(one))
    assert results["search"]["counts"] == {"complete": 3, "stopped": 1}
    assert best_of(results["search"]) == results["search"]["best"]["value"]
    # The other had taken the trial for dead when it chose, and stays with what it chose.
    chosen = run(text_arguments(other))["search"]
    assert chosen["counts"] == {"complete": 2, "running": 1}
    assert best_of(chosen) == chosen["best"]["value"]


def test_a_machine_that_died_is_not_waited_for(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tiny_backbone, tmp_path, "journal", "run", trials=3)
    plan = read_search(text_arguments(given))
    study = optuna.create_study(study_name="search", storage=storage_of(plan, tmp_path), direction="minimize")
    study.ask().set_user_attr("worker", "elsewhere:/run")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 300, "it waits without end"
        time.sleep(0.1)

    monkeypatch.setattr("hf_selfattn.training.search.time", SimpleNamespace(sleep=sleep, time=time.time))
    record = run(text_arguments(given))["search"]
    assert record["counts"] == {"complete": 2, "running": 1}
    assert record["best"]["value"] == best_of(record)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([("complete", 2.0), ("running", 1.0)], True),
        ([("complete", 2.0), ("running", 500.0)], False),
        ([("complete", 2.0), ("running", 500.0), ("running", 1.0)], True),
        ([("complete", 2.0), ("failed", 1.0)], False),
        ([("running", 500.0)], True),
        ([], False),
    ],
)
def test_a_trial_that_takes_much_longer_than_the_others_is_dead(
    trials: list[tuple[str, float]], expected: bool
) -> None:
    record = {"trials": [{"state": state, "seconds": seconds} for state, seconds in trials]}
    assert is_waited_for(record) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"selection_metric": "macro_f1"},
        {"heads": {**HEADS, "num_groups": 2}},
        {"search": {"space": {"lora.r": [2, 4]}}},
    ],
    ids=["metric", "model", "space"],
)
def test_a_storage_of_another_search_is_refused(changes: dict[str, Any], tiny_backbone: str, tmp_path: Path) -> None:
    one, other = (settings(tiny_backbone, tmp_path, "journal", name, trials=1) for name in ("one", "other"))
    with stopped_after(trainings=1):
        run(text_arguments(one))
    changes = {**changes, "search": {**other["search"], **changes.get("search", {})}}
    with pytest.raises(ValueError, match="search.storage=.* holds another search; it differs in"):
        run(text_arguments({**other, **changes}))


def test_a_storage_that_cannot_be_opened_is_named(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_selfattn.training.search.SECONDS_BETWEEN_LOOKS", 0.0)
    given = settings(tiny_backbone, tmp_path, "journal", "run", trials=1)
    given["search"]["storage"] = "nowhere://host/trials"
    with pytest.raises(ValueError, match="search.storage='nowhere://host/trials' cannot be opened .* Give a journal"):
        run(text_arguments(given))


def test_where_the_trials_are_kept_is_no_part_of_a_run(tiny_backbone: str, tmp_path: Path) -> None:
    one, other = (
        text_arguments(settings(tiny_backbone, tmp_path, storage, storage, trials=3)) for storage in STORAGES
    )
    assert one.without_places() == other.without_places()
