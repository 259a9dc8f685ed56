"""Probe tuning and LoRA in one run: where the second phase starts, what is saved, and what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from runs import HEADS, probe_arguments, stopped_after
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
    pipeline,
)

from hf_selfattn import NerArguments, RunArguments, TextClassificationArguments, run
from hf_selfattn.tasks import task_of
from hf_selfattn.training.phases import heads_of, probe_phase
from hf_selfattn.training.trainer import RecipeTrainer

OPENED = {
    TextClassificationArguments: AutoModelForSequenceClassification,
    NerArguments: AutoModelForTokenClassification,
}


@pytest.fixture
def starts_and_ends(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights of the heads before and after each training."""
    found: list[dict[str, Tensor]] = []
    train = RecipeTrainer.train

    def watched(self: Any, **options: Any) -> Any:
        found.append(heads_under_adapters(self.model))
        outcome = train(self, **options)
        found.append(heads_under_adapters(self.model))
        return outcome

    monkeypatch.setattr(RecipeTrainer, "train", watched)
    return found


def heads_under_adapters(model: Any) -> dict[str, Tensor]:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    state = {name.replace(".modules_to_save.default", ""): value for name, value in heads_of(plain).items()}
    return {name: value.clone() for name, value in state.items() if ".original_module" not in name}


def assert_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("save", ["merged", "adapter"])
@pytest.mark.parametrize("kind", [TextClassificationArguments, NerArguments])
def test_adapters_begin_with_the_heads_of_the_first_phase(
    tiny_backbone: str,
    wordpiece: str,
    tmp_path: Path,
    kind: type[RunArguments],
    save: str,
    starts_and_ends: list[dict[str, Tensor]],
) -> None:
    backbone = tiny_backbone if kind is TextClassificationArguments else wordpiece
    heads = {**HEADS, **({"decoding": "crf"} if kind is NerArguments else {})}
    changes = {"tuning": "probe+lora", "save": save, "heads": heads, "probe_epochs": 1, "probe_learning_rate": 0.02}
    arguments = probe_arguments(backbone, tmp_path, kind, **changes)
    results = run(arguments)

    _, probed, begun, ended = starts_and_ends
    assert_equal(begun, probed)
    assert_equal(begun, load_file(tmp_path / "run/probe/heads.safetensors"))
    classifier = next(name for name in begun if "classifier" in name and name.endswith("weight"))
    assert not torch.equal(begun[classifier], ended[classifier])
    assert [path.name for path in sorted((tmp_path / "run/probe").iterdir())] == [
        "heads.safetensors",
        "run_state.json",
    ]

    phases, training = results["training"]["phases"], results["training"]
    assert phases["probe"]["epochs"] == 1 and phases["lora"]["epochs"] == training["epochs"] == 2
    assert phases["lora"]["steps"] == 2 * phases["probe"]["steps"] == training["steps"]
    for name in ("seconds", "cpu_seconds"):
        assert training[name] == pytest.approx(phases["probe"][name] + phases["lora"][name])
    assert phases["lora"]["best_metric"] == training["best_metric"] and phases["probe"]["best_metric"] is not None
    rates = [entry["learning_rate"] for entry in phases["probe"]["history"] if "learning_rate" in entry]
    assert max(rates) == pytest.approx(0.02, rel=0.2)
    assert phases["probe"]["feature_cache"]["rows"] == 42 and training["feature_cache"] is None
    assert (
        results["arguments"]["tuning"] == "probe+lora"
        and "frozen backbone" in (tmp_path / "run/README.md").read_text()
    )

    options = {"backbone_name_or_path": backbone} if save == "adapter" else {}
    reopened = OPENED[kind].from_pretrained(tmp_path / "run", **options).eval()
    assert (tmp_path / "run/model.safetensors").exists() == (save == "merged")
    expected = ended[classifier]
    assert any(
        torch.equal(value, expected) for value in reopened.state_dict().values() if value.shape == expected.shape
    )
    if kind is TextClassificationArguments:
        assert_answers(tmp_path, options)


def test_the_attention_heads_of_the_first_phase_have_the_rate_of_all() -> None:
    given = {"model": "x", "output_dir": "x", "tuning": "probe+lora", "heads_learning_rate": 1e-5}
    for rate, expected in ((None, 1e-3), (0.02, 0.02)):
        arguments = TextClassificationArguments(**given, probe_learning_rate=rate, options={"learning_rate": 1e-4})
        first = probe_phase(task_of(arguments)).arguments
        assert first.options["learning_rate"] == first.heads_learning_rate == expected


def assert_answers(folder: Path, options: dict[str, str]) -> None:
    """A pipeline gives the probabilities that were scored."""
    texts = [json.loads(line)["text"] for line in (folder / "test.jsonl").read_text().splitlines()]
    answers = pipeline("text-classification", model=str(folder / "run"), top_k=None, model_kwargs=options)(texts)
    lines = (folder / "run/predictions-test.jsonl").read_text().splitlines()
    for answer, line in zip(answers, lines, strict=True):
        by_label = {entry["label"]: entry["score"] for entry in answer}
        found = [by_label[label] for label in ("left", "right", "up")]
        assert json.loads(line)["output"] == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("epochs", [1, 3], ids=["first", "second"])
def test_a_run_stopped_in_a_phase_goes_on_and_ends_alike(tiny_backbone: str, tmp_path: Path, epochs: int) -> None:
    whole = probe_arguments(tiny_backbone, tmp_path, tuning="probe+lora")
    expected = run(whole)
    stopped = probe_arguments(tiny_backbone, tmp_path, tuning="probe+lora", output_dir=str(tmp_path / "stopped"))
    with stopped_after(epochs=epochs):
        run(stopped)
    heads = tmp_path / "stopped/probe/heads.safetensors"
    assert heads.exists() == (epochs == 3)
    written = heads.stat().st_mtime_ns if heads.exists() else None
    folder = tmp_path / ("stopped" if heads.exists() else "stopped/probe")
    assert len(list(folder.glob("checkpoint-*"))) == 1

    results = run(stopped)
    assert written in (None, heads.stat().st_mtime_ns), "a phase that is done is not trained again"
    starts = results["training"]["phases"]["probe"]["run_state"]["starts"], results["run_state"]["starts"]
    assert starts == ((1, 2) if epochs == 3 else (2, 1))
    assert_equal(load_file(heads), load_file(tmp_path / "run/probe/heads.safetensors"))
    assert_equal(*(load_file(tmp_path / name / "model.safetensors") for name in ("run", "stopped")))
    assert results["training"]["best_metric"] == expected["training"]["best_metric"]


def test_broken_heads_are_named(tiny_backbone: str, tmp_path: Path) -> None:
    arguments = probe_arguments(tiny_backbone, tmp_path, tuning="probe+lora", num_train_epochs=1)
    with stopped_after(epochs=1):
        run(arguments)
    heads = tmp_path / "run/probe/heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"heads.safetensors is broken .*Delete it"):
        run(arguments)


def test_without_a_cache_the_backbone_runs_in_every_step(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda *a, **k: (calls.append(True), forward(*a, **k))[1])
    changes = {"feature_cache": False, "sample_tokens": 24, "num_train_epochs": 1}
    phases = run(probe_arguments(tiny_backbone, tmp_path, tuning="probe+lora", **changes))["training"]["phases"]
    assert phases["probe"]["feature_cache"] is None and len(calls) > 2 * phases["probe"]["steps"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_tokens": 24}, "tuning='probe.lora' keeps the features of whole rows, which sample_tokens=24"),
        ({"streaming": True, "max_steps": 4}, "which streaming=true does not read. .* feature_cache=false"),
        ({"streaming": True, "feature_cache": False, "probe_epochs": 1}, "probe_epochs=1.0, but with streaming=true"),
        ({"quantization": "int8", "save": "adapter"}, "quantization='int8' needs save='adapter' and tuning='lora'"),
        ({"probe_epochs": 0}, "probe_epochs=0.0 must be above 0"),
        ({"tuning": "lora", "probe_epochs": 1}, "probe_epochs=1.0 says nothing with tuning='lora'"),
        ({"tuning": "probe", "probe_learning_rate": "1e-2"}, "probe_learning_rate=0.01 says nothing"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe_arguments("m", tmp_path, **{"tuning": "probe+lora", **changes})
