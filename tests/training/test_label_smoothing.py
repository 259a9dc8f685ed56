"""`label_smoothing_factor` is `Trainer`'s own: it reaches the loss, and is refused where a loss is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import probe_arguments, settings, text_arguments
from transformers import Trainer

from hf_selfattn import NerArguments, build_arguments, run

PLAIN = {
    "tuning": "full",
    "num_train_epochs": 1,
    "logging_steps": 1,
    "learning_rate": 0.01,
    "backbone": {"hidden_dropout_prob": 0.0},
}


def numbers(results: dict[str, Any], name: str) -> list[float]:
    """What was logged of each step."""
    return [entry[name] for entry in results["training"]["history"] if name in entry]


def smoothed(logits: torch.Tensor, labels: torch.Tensor, factor: float) -> float:
    """A loop over the rows, or the tokens that have a label."""
    losses = [
        (1 - factor) * -row.log_softmax(-1)[label] + factor * -row.log_softmax(-1).mean()
        for row, label in zip(logits.flatten(0, -2), labels.flatten(), strict=True)
        if label != -100
    ]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("kind", ["text", "tags"])
def test_the_loss_of_each_step_is_smoothed(
    kind: str, tiny_backbone: str, wordpiece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[float] = []
    compute_loss = Trainer.compute_loss

    def watched(trainer: Trainer, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        labels = inputs["labels"].clone()
        loss, outputs = compute_loss(trainer, model, inputs, **{**options, "return_outputs": True})
        if model.training:
            expected.append(smoothed(outputs["logits"].detach(), labels, 0.2))
        return (loss, outputs) if options.get("return_outputs") else loss

    monkeypatch.setattr(Trainer, "compute_loss", watched)
    changes = {**PLAIN, "label_smoothing_factor": 0.2}
    if kind == "tags":
        results = run(probe_arguments(wordpiece, tmp_path, NerArguments, **changes))
    else:
        results = run(text_arguments(settings(tiny_backbone, tmp_path, **changes)))
    found = numbers(results, "loss")
    assert len(found) > 5 and found == pytest.approx(expected, abs=1e-4)


def test_four_steps_of_four_rows_are_one_of_sixteen(tiny_backbone: str, tmp_path: Path) -> None:
    found = []
    for name, batch, steps in (("one", 16, 1), ("four", 4, 4)):
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        given = settings(tiny_backbone, tmp_path, **PLAIN, **sizes, label_smoothing_factor=0.2)
        given["heads"] = {**given["heads"], "classifier_dropout": 0.0}
        results = run(text_arguments({**given, "output_dir": str(tmp_path / name)}))
        found.append([numbers(results, name) for name in ("loss", "grad_norm")])
    assert [len(values) for values in found[0]] == [3, 3]
    for one, four in zip(*found, strict=True):
        assert four == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("single_label_classification", {"class_weights": "balanced"}),
        ("ordinal", {"problem": "ordinal", "class_weights": "balanced"}),
        ("multi_label_classification", {}),
        ("regression", {}),
    ],
)
def test_it_is_refused_beside_a_loss_of_ours(
    kind: str, changes: dict[str, Any], tiny_backbone: str, tmp_path: Path
) -> None:
    given = settings(tiny_backbone, tmp_path, kind, label_smoothing_factor=0.1, **changes)
    with pytest.raises(ValueError, match=f"label_smoothing_factor=0.1 smooths .* the problem here is {kind}"):
        run(text_arguments(given))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_crf_has_a_loss_of_its_own(wordpiece: str, tmp_path: Path) -> None:
    arguments = probe_arguments(wordpiece, tmp_path, NerArguments, label_smoothing_factor=0.1)
    given = {**vars(arguments), **arguments.options}
    given["heads"] = {**arguments.heads, "decoding": "crf"}
    with pytest.raises(ValueError, match="heads.decoding=crf has a loss of its own"):
        run(build_arguments(given, NerArguments))
