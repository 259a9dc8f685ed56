"""`tuning: auto`: what it tries, how it says how long that takes, what it keeps, and what a kill leaves."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pages import fetch, first_layers
from runs import probe_arguments, settings, stopped_after, text_arguments
from safetensors.torch import load_file
from tiny_models import BACKBONES, tiny_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_selfattn import NerArguments, RunArguments, TextClassificationArguments, run
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.hub.results import RESULTS_FILE
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.evaluation import plain_model
from hf_selfattn.training.auto import fit, pace
from hf_selfattn.training.auto import race as auto_race
from hf_selfattn.training.auto.candidates import (
    candidates_of,
    layers_to_keep,
    settings_of,
    settings_of_heads,
    starts_of,
    table_of,
)
from hf_selfattn.training.auto.pace import Pace, outlook
from hf_selfattn.training.auto.race import ways_to_train
from hf_selfattn.training.contrastive.phase import fit_all_phases
from hf_selfattn.training.phases import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny random BERT of six layers and its tokenizer."""
    folder = str(tmp_path_factory.mktemp("six"))
    config = deepcopy(BACKBONES["bert"])
    config.num_hidden_layers = 6
    AutoModel.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three candidates, and no cross-validation."""
    monkeypatch.setattr(pace, "FEWEST", 3)
    monkeypatch.setattr(pace, "MOST", 3)
    monkeypatch.setattr(fit, "FEW_ROWS", 10)


def keep(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setattr(fit, "is_ahead", lambda *_: chosen == "probe")


def test_choices_that_the_user_has_made_are_not_tried(tmp_path: Path) -> None:
    free = task_of(TextClassificationArguments(model="m", output_dir="o", tuning="auto"))
    assert list(candidates_of(free, 4, 6)) == ["attention", "features", "rate", "pooling", "layers"]
    assert list(candidates_of(free, 4, 4)) == ["attention", "features", "rate", "pooling"]
    given = {"heads": {"pooling": "cls", "fusion_init": 0.2}, "probe_learning_rate": 0.1, "standardise": False}
    settled = task_of(replace(free.arguments, **given))
    assert list(candidates_of(settled, 4, 6)) == ["layers"]


def test_a_tagger_starts_elsewhere_and_has_no_pooling() -> None:
    candidates = candidates_of(task_of(NerArguments(model="m", output_dir="o", tuning="auto")), 4, 4)
    assert list(candidates["attention"]) == ["from .1", "from 0", "none"] and "pooling" not in candidates
    assert starts_of(candidates)[0] == {"attention": "from .1", "features": "standardised", "rate": "1e-3"}
    assert starts_of(candidates)[2] == {"attention": "none", "features": "standardised", "rate": "1e-2"}


def test_a_tuned_backbone_takes_the_heads_of_a_candidate_and_nothing_else() -> None:
    candidates = candidates_of(task_of(TextClassificationArguments(model="m", output_dir="o", tuning="auto")), 4, 6)
    chosen = starts_of(candidates)[2]
    off = {"heads.num_self_attention_heads": 0, "heads.num_grouped_attention_heads": 0}
    settings = settings_of(candidates, chosen)
    assert settings == {
        **off,
        "heads.pooling": "mean",
        "heads.num_mixed_layers": 6,
        "standardise": True,
        "probe_learning_rate": 0.01,
    }
    assert settings_of_heads(settings) == {**off, "heads.pooling": "mean"}
    assert settings_of_heads({"heads.pooling": "class_query"}) == {"heads.pooling": "mean"}
    assert settings_of_heads({"heads.fusion_init": 0.1, "standardise": True}) == {"heads.fusion_init": 0.1}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_table_ends_with_the_best_candidate(direction: str) -> None:
    trials = [
        {"number": 0, "value": 0.5, "state": "complete", "settings": {"rate": "1e-3"}},
        {"number": 1, "value": None, "state": "failed", "settings": {"rate": "1e-2"}},
        {"number": 2, "value": 0.45, "state": "pruned", "settings": {"rate": "3e-3"}},
        {"number": 3, "value": 0.25, "state": "complete", "settings": {"rate": "1e-4"}},
    ]
    record = {"trials": trials, "direction": direction, "metric": "f1"}
    lines = table_of({"rate": {}}, record, {"lora": 0.75}).splitlines()
    numbers = ["2", "3", "0"] if direction == "maximize" else ["2", "0", "3"]  # first what was stopped early
    assert [line.split()[:2] for line in lines[1:]] == [*(["candidate", n] for n in numbers), ["lora", "0.7500"]]
    assert "(stopped early)" in "".join(lines)


@pytest.mark.parametrize(("heads", "trials"), [(0.0001, 16), (0.005, 9), (0.05, 3)])
def test_candidates_are_as_many_as_fit_beside_lora(heads: float, trials: int) -> None:
    arguments = TextClassificationArguments(model="m", output_dir="o", tuning="auto")
    plan = outlook(arguments, Pace(0.01, heads, 0.1, 1.0), 1000, 1000, 100, 0, 2)
    lora = 1 + 6 * (1000 + 100 / 3) * 0.1
    assert plan.tuning == pytest.approx(4 / 3 * lora) and plan.features == pytest.approx(11)
    assert plan.trials == trials
    if trials > pace.FEWEST:
        assert plan.features + plan.candidates + plan.probe <= pace.SHARE_OF_LORA * lora
    assert f"{trials} candidates" in str(plan)


@pytest.mark.parametrize(
    ("probe", "tuned", "more", "rows", "ahead"),
    [(0.9, 0.8, True, 100, True), (0.83, 0.8, True, 100, False), (0.83, 0.8, True, 10_000, True)]
    + [(0.83, 0.8, True, 0, True), (0.8, 0.8, True, 0, False), (0.5, 0.8, False, 100, True)]
    + [(0.79, 0.8, False, 100, False), (0.9, 0.8, False, 0, False)],
)
def test_a_probe_has_to_be_ahead_by_more_than_chance(
    probe: float, tuned: float, more: bool, rows: int, ahead: bool
) -> None:
    assert fit.is_ahead(probe, tuned, more, rows) == ahead


def test_minutes_are_shared() -> None:
    arguments = TextClassificationArguments(model="m", output_dir="o", tuning="auto", budget_minutes=4)
    plan = outlook(arguments, Pace(0.001, 0.003, 0.1, 0.1), 1000, 1000, 100, 0, 2)
    assert sum((plan.features, plan.candidates, plan.probe)) <= 80 and plan.tuning <= 240
    assert fit.over_budget(plan, 4) == "" == fit.over_budget(plan, None)
    assert "more than budget_minutes=2, for no part" in fit.over_budget(plan, 2)


@pytest.mark.parametrize("chosen", ["probe", "full", "contrastive"])
def test_what_is_ahead_on_validation_is_kept(
    six_layers: str,
    tmp_path: Path,
    three: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chosen: str,
) -> None:
    keep(monkeypatch, chosen)
    wanted = {"full": "full", "contrastive": "probe"}.get(chosen)
    monkeypatch.setattr(auto_race, "short_record", lambda task, *_: {"best_metric": task.arguments.tuning == wanted})
    results = run(probe_arguments(six_layers, tmp_path, tuning="auto"))
    said = capsys.readouterr().out
    assert said.index("tuning=auto takes about") < said.index("Candidate 0: ") < said.index("tuning=auto tried")
    assert f"It keeps {chosen}." in said

    auto, tuned = results["training"]["auto"], "lora" if chosen == "probe" else chosen
    assert auto["chosen"] == chosen and auto["counts"].keys() <= {"complete", "pruned"}
    assert len(auto["trials"]) == 3 and auto["scores"].keys() == {"linear model", "probe", tuned}
    assert auto["scores"]["probe"] == auto["best"]["value"], "the best candidate was trained again, alike"
    assert results["training"]["best_metric"] == auto["scores"][chosen]
    assert results["training"]["seconds"] > sum(trial["seconds"] for trial in auto["trials"])
    assert json.loads((tmp_path / "run" / RESULTS_FILE).read_text())["training"]["auto"] == auto

    heads, model = load_file(tmp_path / "run/probe/heads.safetensors"), load_file(tmp_path / "run/model.safetensors")
    same = [name for name, value in heads.items() if torch.equal(model.get(name, torch.zeros(0)), value)]
    assert (len(same) == len(heads)) == (chosen == "probe")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert opened.config.num_mixed_layers == (settings_mixed(auto) if chosen == "probe" else 1)


def settings_mixed(auto: dict[str, Any]) -> int:
    return {"last four": 4, "all": 6}[auto["best"]["settings"]["layers"]]


@pytest.mark.parametrize("kind", [TextClassificationArguments, NerArguments])
def test_few_rows_are_cross_validated(
    tiny_backbone: str,
    wordpiece: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[RunArguments],
) -> None:
    monkeypatch.setattr(pace, "FEWEST", 1)
    monkeypatch.setattr(pace, "MOST", 1)
    monkeypatch.setattr(fit, "FOLDS", 2)
    keep(monkeypatch, "tuned")
    backbone = wordpiece if kind is NerArguments else tiny_backbone
    results = run(probe_arguments(backbone, tmp_path, kind, tuning="auto", num_train_epochs=1))
    auto, folds = results["training"]["auto"], json.loads((tmp_path / "run/auto/tuned-folds.json").read_text())
    tuned = "lora" if kind is NerArguments else "contrastive"
    assert len(folds) == 2 and auto["scores"][tuned] == pytest.approx(sum(folds) / 2) and auto["chosen"] == tuned
    assert auto["scores"]["probe"] == auto["best"]["value"] and "linear model" not in auto["scores"]
    assert " in a cross-validation of train:" in capsys.readouterr().out
    phases = results["training"]["phases"]
    assert phases["probe"]["steps"] == phases[tuned]["steps"] > 0


def test_a_run_that_was_stopped_goes_on(
    tiny_backbone: str, tmp_path: Path, three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = probe_arguments(tiny_backbone, tmp_path, tuning="auto", num_train_epochs=1)
    with stopped_after(trainings=2):
        run(arguments)
    before = json.loads((tmp_path / "run/auto.json").read_text())["trials"]
    plan = (tmp_path / "run/auto/outlook.json").read_text()
    assert [trial["state"] for trial in before] == ["complete", "complete"]

    monkeypatch.setattr(fit, "measure", lambda *_: pytest.fail("it was planned before"))
    with stopped_after(trainings=2):  # the third candidate and the best one's heads
        run(arguments)
    assert (tmp_path / "run/probe/heads.safetensors").is_file() and not list((tmp_path / "run").glob("model*"))
    results = run(arguments)
    auto = results["training"]["auto"]
    kept = [trial for trial in auto["trials"] if trial["state"] == "complete"]
    assert kept[:2] == before and (tmp_path / "run/auto/outlook.json").read_text() == plan
    assert len(kept) + auto["counts"].get("pruned", 0) == 3


@pytest.mark.parametrize("winner", ["lora", "full, short", "contrastive", "contrastive, short"])
def test_a_race_keeps_the_best_training(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    task = task_of(probe_arguments(tiny_backbone, tmp_path, tuning="lora", num_train_epochs=3))
    prepared = prepare(task, task.load())
    ways = ways_to_train(task, prepared)
    assert list(ways) == ["lora", "full", "contrastive"]
    assert ways["full"].long.arguments.options["learning_rate"] == auto_race.FULL_RATE
    contrastive = ways["contrastive"]
    assert contrastive.short is not None and contrastive.long.arguments.linear_start
    assert (contrastive.short.arguments.contrastive_steps, contrastive.long.arguments.contrastive_steps) == (1, 3)
    train, favourite = auto_race.short_record, winner.removesuffix(", short") + ", short"

    def judged(task: Any, prepared: Any, folder: Path) -> dict[str, float]:
        train(task, prepared, folder)
        return {"best_metric": float(folder.name == favourite) * (2 if "short" in winner else 0.01), "seconds": 1000.0}

    monkeypatch.setattr(auto_race, "short_record", judged)
    name, fitted = auto_race.race(ways, prepared, tmp_path / "race", more_is_better=True)
    assert name == winner and fitted.run_state.starts == 1
    assert (fitted.record["seconds"] == 1000) == ("short" in winner), "its time is that of its training"
    assert [path.name for path in (tmp_path / "race").iterdir() if path.is_dir()] == [name]
    way = ways[name.removesuffix(", short")]
    of_winner = way.short if "short" in winner else way.long
    assert of_winner is not None
    alone = fit_all_phases(of_winner, prepared, tmp_path / "alone")
    assert fitted.record["steps"] == alone.record["steps"]
    mine, theirs = (plain_model(found.trainer).state_dict() for found in (fitted, alone))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_lengths_are_shares_of_a_run_or_what_the_user_says(tiny_backbone: str, tmp_path: Path) -> None:
    def lengths(rows: int, minutes: float | None = None, **given: Any) -> list[tuple[Any, ...]]:
        task = task_of(probe_arguments(tiny_backbone, tmp_path, tuning="lora", **given))
        task.arguments.options = {**task.arguments.options, **given}
        ways = ways_to_train(task, SimpleNamespace(encoded={"train": range(rows)}, **of_classes), minutes)
        full, contrastive = ways["full"], ways["contrastive"]
        assert full.short is not None and contrastive.short is not None
        pairs = ((full.short, contrastive.short), (full.long, contrastive.long))
        return [
            (a.arguments.options.get("num_train_epochs"), b.arguments.contrastive_steps, a.arguments.budget_minutes)
            for a, b in pairs
        ]

    data = SimpleNamespace(problem="single_label_classification", splits={"train": {"label": [0, 1]}})
    of_classes = {"data": data, "backbone_config": SimpleNamespace(hidden_size=384)}
    assert lengths(30, num_train_epochs=3, minutes=3) == [pytest.approx((1, 1, 0.5)), pytest.approx((3, 3, 1.5))]
    assert lengths(30, max_steps=8)[1][1] == 4
    task = task_of(text_arguments(settings(tiny_backbone, tmp_path)))
    task.arguments.options.clear()
    for rows, expected in ((500, (4, 8)), (1000, (2, 4)), (100_000, (1, 3))):
        ways = ways_to_train(task, SimpleNamespace(encoded={"train": range(rows)}, **of_classes))
        full = ways["full"]
        assert full.short is not None
        found = tuple(part.arguments.options["num_train_epochs"] for part in (full.short, full.long))
        assert found == expected
        whole = auto_race.epochs_of_run(task.arguments, rows)
        assert auto_race.trainings_in_race(task.arguments, rows, 3) == (sum(found) + 2 * found[0]) / whole


def test_a_way_that_cannot_be_trained_is_left_out(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_of(probe_arguments(tiny_backbone, tmp_path, tuning="lora", num_train_epochs=1))
    prepared = prepare(task, task.load())
    ways = ways_to_train(task, prepared)
    monkeypatch.setattr(type(task), "build_model", spoilt(type(task).build_model, "full"))
    name, _ = auto_race.race(ways, prepared, tmp_path / "race", more_is_better=True)
    said = capsys.readouterr().out
    assert name.startswith("lora") and "full, short is left out: no memory" in said
    assert "contrastive, short is left out" in said, "its first phase trains the whole backbone"
    done = json.loads((tmp_path / "race/race.json").read_text())
    assert done["full, short"] is done["contrastive, short"] is None and done["lora, short"] is not None


@pytest.mark.parametrize("kind", [NerArguments, TextClassificationArguments])
def test_without_classes_full_tuning_races_with_lora(wordpiece: str, tmp_path: Path, kind: type[RunArguments]) -> None:
    task = task_of(probe_arguments(wordpiece, tmp_path, kind))
    data = SimpleNamespace(problem="regression", splits={"train": {"label": [0.5, 1.0]}})
    wide = SimpleNamespace(hidden_size=768)
    ways = ways_to_train(task, SimpleNamespace(encoded={"train": range(500)}, data=data, backbone_config=wide))
    assert list(ways) == ["lora", "full"] and all(way.short is not None for way in ways.values())
    assert ways["full"].long.arguments.options["learning_rate"] == auto_race.FULL_RATE / 4


def spoilt(build: Any, tuning: str) -> Any:
    """What builds a model for every way of tuning but one."""

    def build_or_fail(self: Any, *arguments: Any) -> Any:
        if self.arguments.tuning == tuning:
            raise RuntimeError("no memory")
        return build(self, *arguments)

    return build_or_fail


@pytest.mark.parametrize("given", [{"learning_rate": 1e-4}, {"lora": {"r": 4}}])
def test_a_rate_or_options_of_lora_leave_lora_alone(tmp_path: Path, given: dict[str, Any]) -> None:
    task = task_of(probe_arguments("m", tmp_path, tuning="auto", **given))
    assert list(ways_to_train(task, SimpleNamespace())) == ["lora"]


def test_a_candidate_that_fails_is_left_out(
    tiny_backbone: str, tmp_path: Path, three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"attention": {"from 0": {"heads.fusion_init": 0.0}, "none": {"heads.num_head_layers": -1}}}
    monkeypatch.setattr(task_of(probe_arguments("m", tmp_path)).__class__, "candidates", failing)
    results = run(probe_arguments(tiny_backbone, tmp_path, tuning="auto", num_train_epochs=1, learning_rate=1e-3))
    auto = results["training"]["auto"]
    assert auto["counts"]["failed"] >= 1 and auto["best"]["settings"] == {"attention": "from 0"}
    assert any("num_head_layers" in trial.get("error", "") for trial in auto["trials"])


def test_candidates_read_part_of_many_rows_and_lora_all(
    tiny_backbone: str, tmp_path: Path, three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, "lora")
    monkeypatch.setattr(fit, "MOST_ROWS", 16)
    results = run(probe_arguments(tiny_backbone, tmp_path, tuning="auto", num_train_epochs=1, learning_rate=1e-3))
    steps = json.loads((tmp_path / "run/auto/outlook.json").read_text())
    assert steps["trials"] == 3 and "linear model" not in results["training"]["auto"]["scores"]
    phases = results["training"]["phases"]
    assert (phases["probe"]["steps"], phases["lora"]["steps"]) == (4, 8) and results["train"]["rows"] == 30


@pytest.mark.parametrize("layers", [{}, {"num_mixed_layers": 2}])
def test_layers_are_kept_for_all_candidates(six_layers: str, tmp_path: Path, layers: dict[str, int]) -> None:
    task = task_of(probe_arguments(six_layers, tmp_path, tuning="auto", heads=layers))
    prepared = prepare(task, task.with_validation(task.load()))
    assert layers_to_keep(task, prepared) == ((2, 2) if layers else (4, 6))


@pytest.mark.parametrize("kind", [TextClassificationArguments, NerArguments])
def test_folds_cover_train_once(tiny_backbone: str, wordpiece: str, tmp_path: Path, kind: type[RunArguments]) -> None:
    task = task_of(probe_arguments(wordpiece if kind is NerArguments else tiny_backbone, tmp_path, kind))
    data = task.load()
    everything = data.splits["train"][ORIGIN][:]
    parts = task.cross_validation(data, 4)
    held = [row for part in parts for row in part.splits["validation"][ORIGIN][:]]
    assert sorted(held) == sorted(everything) and len(parts) == 4
    for part in parts:
        assert sorted(part.splits["train"][ORIGIN][:] + part.splits["validation"][ORIGIN][:]) == sorted(everything)
        if kind is NerArguments:
            sides = [{*split["document"][:]} for split in part.splits.values()]
            assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"space": {"weight_decay": [0, 1]}}}, "tuning=auto searches by itself"),
        ({"eval_strategy": "no"}, "with eval_strategy=no there is no score"),
        ({"feature_cache": False}, "tuning='auto' tries heads on kept features"),
        ({"save": "adapter"}, "save='adapter' needs tuning='lora'"),
        ({"sample_tokens": 8}, "keeps the features of whole rows, which sample_tokens=8 does not read"),
    ],
)
def test_what_does_not_go_together_is_named(
    tiny_backbone: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(text_arguments(settings(tiny_backbone, tmp_path, tuning="auto", **changes)))


def test_a_tuned_model_has_its_heads(tiny_backbone: str, tmp_path: Path) -> None:
    first = probe_arguments(tiny_backbone, tmp_path, num_train_epochs=1)
    run(first)
    with pytest.raises(ValueError, match=r"tuning=auto chooses the heads, and model=.*Set tuning=lora"):
        run(replace(first, model=first.output_dir, tuning="auto", heads={}, output_dir=str(tmp_path / "further")))


@pytest.mark.slow
def test_sentences_on_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("minilm", "vader")
    files = {}
    for name, count in (("train", 208), ("validation", 96)):
        lines = (ROOT / f".data/vader/movies-polarity-{name}.jsonl").read_text().splitlines()[:count]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        files[name] = str(tmp_path / f"{name}.jsonl")
    monkeypatch.setattr(pace, "MOST", 4)
    given = {"tuning": "auto", "num_train_epochs": 2, "baseline": False, "feature_cache": str(tmp_path / "features")}
    results = run(
        text_arguments(
            {"model": first_layers(tmp_path / "minilm"), "output_dir": str(tmp_path / "run"), **files, **given}
        )
    )
    auto = results["training"]["auto"]
    assert auto["counts"].keys() <= {"complete", "pruned"} and auto["scores"]["linear model"] > 0.6
    assert results["splits"]["validation"]["scores"]["accuracy"]["value"] > 0.6
    assert results["training"]["best_metric"] == auto["scores"][auto["chosen"]]
