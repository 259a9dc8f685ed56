"""The contrastive phase: its loss, the order of its rows, what follows it, and what a kill leaves."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from image_runs import image_settings
from pages import fetch
from runs import HEADS, probe_arguments, settings, stopped_after, text_arguments
from safetensors.torch import load_file
from sound_runs import sound_settings
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from benchmarks.quality.draws import drawn
from hf_selfattn import (
    AudioClassificationArguments,
    ImageClassificationArguments,
    NerArguments,
    RunArguments,
    build_arguments,
    run,
)
from hf_selfattn.tasks import task_of
from hf_selfattn.training.contrastive.loss import ContrastiveModel, contrastive_loss
from hf_selfattn.training.contrastive.phase import advice
from hf_selfattn.training.sampler import RoundsOfClasses

ROOT = Path(__file__).resolve().parents[2]
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def naive_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss of Khosla et al. (2020), row by row and pair by pair."""
    unit = [row / row.norm() for row in features]
    rows = []
    for i, mine in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        total = sum(torch.exp(mine @ unit[j] / temperature) for j in others)
        terms = [-torch.log(torch.exp(mine @ unit[j] / temperature) / total) for j in positives]
        rows += [sum(terms) / len(terms)] if terms else []
    return torch.stack(rows).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_that_of_all_pairs(temperature: float) -> None:
    features = torch.randn(len(LABELS), 5, requires_grad=True)
    found, expected = contrastive_loss(features, LABELS, temperature), naive_loss(features, LABELS, temperature)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0][3].abs().sum() > 0, "a row alone in its class is still told apart from the others"


def test_the_loss_of_rows_without_a_pair_is_nothing() -> None:
    features = torch.randn(3, 5, requires_grad=True)
    loss = contrastive_loss(features, torch.arange(3))
    loss.backward()
    assert loss == 0 and torch.equal(features.grad, torch.zeros(3, 5))  # type: ignore[arg-type]


def order(labels: list[int], update: int, epoch: int = 0, seed: int = 0) -> list[int]:
    sampler = RoundsOfClasses(np.array(labels), update, seed)
    state: Any = SimpleNamespace(epoch=float(epoch))
    sampler.on_epoch_begin(None, state, None)  # type: ignore[arg-type]
    rows = list(sampler)
    assert len(rows) == len(sampler) == math.ceil(len(labels) / update) * update
    return rows


def test_every_class_stands_in_each_batch_by_as_many_rows() -> None:
    labels = [0] * 20 + [1] * 3 + [2]
    rows = order(labels, update=12)
    for start in range(0, len(rows), 12):
        assert sorted(labels[row] for row in rows[start : start + 12]) == [0] * 4 + [1] * 4 + [2] * 4
    assert len({row for row in rows if labels[row] == 0}) == 8, "no row comes again before all of its class were there"
    assert {row for row in rows if labels[row] > 0} == {20, 21, 22, 23}
    assert rows == order(labels, 12) and rows != order(labels, 12, epoch=1) and rows != order(labels, 12, seed=1)


@pytest.mark.parametrize("tuning", ["probe", "lora", "probe+lora", "full"])
def test_the_phases_after_it_begin_with_its_backbone(tuning: str, tiny_backbone: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tuning": tuning, "contrastive_steps": 4, "learning_rate": 1e-9}
    changes |= {"heads_learning_rate": 1e-9, "activation_checkpointing": tuning == "full"}
    changes |= {"probe_learning_rate": 1e-9} if tuning == "probe+lora" else {}
    training = run(probe_arguments(tiny_backbone, tmp_path, **changes))["training"]
    later = ["probe", "lora"] if tuning == "probe+lora" else [tuning]
    assert list(training["phases"]) == ["contrastive", *later] and training["phases"]["contrastive"]["steps"] == 4
    assert training["steps"] == training["phases"][tuning.rpartition("+")[2]]["steps"] == 16
    for name in ("seconds", "cpu_seconds"):
        assert training[name] == pytest.approx(sum(phase[name] for phase in training["phases"].values()))
    assert [path.name for path in sorted((tmp_path / "run/contrastive").iterdir())] == [
        "backbone.safetensors",
        "run_state.json",
    ]
    learned, saved = learned_and_saved(tmp_path / "run", AutoModelForSequenceClassification)
    before = load_file(Path(tiny_backbone) / "model.safetensors")
    moved = [name for name, value in learned.items() if not torch.allclose(value, before[name], atol=1e-6)]
    assert "embeddings.word_embeddings.weight" in moved and len(moved) > len(learned) / 2
    for name, value in learned.items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=1e-6)


def test_a_probe_reads_the_last_layer_unless_it_is_told_otherwise(tiny_backbone: str, tmp_path: Path) -> None:
    for heads, layers in ((HEADS, 1), ({**HEADS, "num_mixed_layers": 2}, 2)):
        place = str(tmp_path / f"layers-{layers}")
        changes = {"contrastive_steps": 1, "max_steps": 1, "heads": heads, "output_dir": place}
        run(probe_arguments(tiny_backbone, tmp_path, **changes))
        assert AutoConfig.from_pretrained(place).num_mixed_layers == layers


def test_long_rows_are_read_in_excerpts_where_these_are_asked_for(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    forward = ContrastiveModel.forward

    def watched(self: Any, labels: Tensor, **inputs: Any) -> Any:
        lengths.append(inputs["input_ids"].shape[1])
        return forward(self, labels, **inputs)

    monkeypatch.setattr(ContrastiveModel, "forward", watched)
    changes = {"tuning": "lora", "contrastive_steps": 1, "max_steps": 1}
    for name, sampled in (("whole", {}), ("sampled", {"sample_tokens": 24})):
        run(probe_arguments(tiny_backbone, tmp_path, **changes, **sampled, output_dir=str(tmp_path / name)))
    assert lengths[0] > 60 and lengths[1] == 24


def learned_and_saved(folder: Path, auto_class: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the backbone after the phase, and in the saved model."""
    saved = auto_class.from_pretrained(folder).base_model.backbone.state_dict()
    return load_file(folder / "contrastive/backbone.safetensors"), saved


@pytest.mark.parametrize(("kind", "count"), [("first", {"steps": 3}), ("second", {"trainings": 1})])
def test_a_run_stopped_in_a_phase_goes_on_and_ends_alike(
    kind: str, count: dict[str, int], tiny_backbone: str, tmp_path: Path
) -> None:
    changes = {"contrastive_steps": 8, "num_train_epochs": 1}
    run(probe_arguments(tiny_backbone, tmp_path, **changes))
    stopped = probe_arguments(tiny_backbone, tmp_path, **changes, output_dir=str(tmp_path / "stopped"))
    with stopped_after(**count):
        run(stopped)
    weights = tmp_path / "stopped/contrastive/backbone.safetensors"
    assert weights.exists() == (kind == "second")
    written = weights.stat().st_mtime_ns if weights.exists() else None
    first = run(stopped)["training"]["phases"]["contrastive"]
    assert written in (None, weights.stat().st_mtime_ns), "a phase that is done is not trained again"
    assert first["run_state"]["resumed_from"] == ([2] if kind == "first" else [])
    whole = load_file(tmp_path / "run/model.safetensors")
    again = load_file(tmp_path / "stopped/model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items()) and whole.keys() == again.keys()


@pytest.mark.parametrize(
    ("kind", "settings_of", "auto_class"),
    [
        (ImageClassificationArguments, image_settings, AutoModelForImageClassification),
        (AudioClassificationArguments, sound_settings, AutoModelForAudioClassification),
    ],
    ids=["images", "sound"],
)
def test_images_and_sounds_go_the_same_way(
    kind: type[RunArguments], settings_of: Any, auto_class: Any, tmp_path: Path
) -> None:
    changes = {"contrastive_steps": 2, "max_steps": 1, "tuning": "probe", "feature_cache": str(tmp_path / "features")}
    arguments = build_arguments({**settings_of(tmp_path), **changes}, kind)
    training = run(arguments)["training"]
    assert training["phases"]["contrastive"]["steps"] == 2
    learned, saved = learned_and_saved(tmp_path / "run", auto_class)
    assert all(torch.equal(saved[name], value) for name, value in learned.items())


@pytest.mark.slow
def test_few_rows_of_news_are_told_apart_better(tmp_path: Path) -> None:
    fetch("minilm", "r8")
    files = {name: str(ROOT / f".data/r8/{name}.jsonl") for name in ("train", "validation", "test")}
    rows = drawn({**files, "seed": 0, "draw": {"per_class": 8, "test_rows": 120, "words": 24}}, tmp_path / "rows")
    shared = {**rows, "model": str(ROOT / ".data/minilm"), "tuning": "probe", "max_steps": 40, "baseline": False}
    shared |= {"feature_cache": str(tmp_path / "features"), "per_device_train_batch_size": 8, "eval_strategy": "no"}
    shared |= {"save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    scores = {}
    for steps in (0, 15):
        results = run(text_arguments({**shared, "contrastive_steps": steps, "output_dir": str(tmp_path / str(steps))}))
        scores[steps] = results["splits"]["test"]["scores"]["balanced_accuracy"]["value"]
    assert scores[15] > scores[0] + 0.03, scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrastive_steps": -1}, "contrastive_steps=-1 must be 0 or more"),
        ({"save": "adapter", "tuning": "lora"}, "contrastive_steps=4 trains the whole backbone, which save='adapter'"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe_arguments("m", tmp_path, **{"contrastive_steps": 4, **changes})


def test_a_run_with_few_rows_of_each_class_is_told_of_the_phase(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(probe_arguments(tiny_backbone, tmp_path, max_steps=1))
    told = "Most classes have 10 rows or fewer: contrastive_steps=20 may do better."  # it is a probe
    assert told in capsys.readouterr().out
    for rows, steps, count in ((16, 0, 1), (17, 0, 0), (16, 20, 0)):
        labels = {"train": {"label": [0, 1] * rows}}
        data = SimpleNamespace(problem="single_label_classification", splits=labels)
        task = task_of(probe_arguments(tiny_backbone, tmp_path, contrastive_steps=steps))
        assert len(advice(task, data)) == count
    task.arguments.contrastive_steps, task.arguments.tuning = 0, "lora"
    labels["train"]["label"] = [0, 1] * 3
    assert "contrastive_steps=20 tuning=probe" in advice(task, data)[0]


def test_rows_without_one_class_each_are_refused(tiny_backbone: str, wordpiece: str, tmp_path: Path) -> None:
    message = "contrastive_steps=4 needs rows of one class each"
    for problem in ("multi_label_classification", "regression"):
        with pytest.raises(ValueError, match=message):
            run(text_arguments(settings(tiny_backbone, tmp_path, problem, contrastive_steps=4)))
    with pytest.raises(ValueError, match=message):
        run(probe_arguments(wordpiece, tmp_path, NerArguments, contrastive_steps=4, output_dir=str(tmp_path / "ner")))
