"""What Transformers, accelerate and PEFT do with their own models, done with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import check_device_map, compute_module_sizes
from peft import LoraConfig, get_peft_model
from peft.utils import cast_mixed_precision_params
from tiny_models import TASKS, main_output, tiny_batch, tiny_labels, tiny_model
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)

ROWS = [20, 9]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def tagger(**options: Any) -> Any:
    """A tagger whose scores are large and random, so that its best tags are often illegal."""
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    model = tiny_model("token", **labels, **options)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    return model


def scores_that_are_trained(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scores of the labels before decoding, without dropout."""
    with torch.no_grad():
        features = model.model(**batch).last_hidden_state
        words = model.words_of(batch["input_ids"], batch["attention_mask"], None)
        return model.label_scores(features, words)


def tagged_rows(batch: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    labels = tiny_labels("token", batch)["labels"]
    return [{**{name: values[row] for name, values in batch.items()}, "labels": labels[row]} for row in range(2)]


@pytest.mark.parametrize("outside", ["smoothing", "compute_loss_func"])
def test_a_loss_outside_of_a_tagger_reads_what_is_trained(outside: str, tmp_path: Path) -> None:
    batch, model = tiny_batch(ROWS), tagger()

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)

    options = {"label_smoothing_factor": 0.1} if outside == "smoothing" else {}
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **options)
    function = None if outside == "smoothing" else loss
    trainer = Trainer(model, arguments, eval_dataset=tagged_rows(batch), compute_loss_func=function)
    scores = scores_that_are_trained(model, batch)
    labels = tiny_labels("token", batch)["labels"]
    expected = float(F.cross_entropy(scores.flatten(0, 1), labels.flatten(), label_smoothing=0.1))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)
    # Without labels nothing is asked but an answer, which is decoded.
    assert model(**batch).logits.min() < -80
    # The model smooths its own loss, and its answers are decoded.
    model.label_smoothing = 0.1
    with torch.no_grad():
        outputs = model(**batch, labels=labels)
    assert float(outputs.loss) == pytest.approx(expected, abs=1e-5) and outputs.logits.min() < -80


def test_fields_of_the_backbone_reach_it(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path, hidden_dropout_prob=0.2, head_dropout=0.3)
    assert opened.model.backbone.embeddings.dropout.p == opened.config.backbone_config.hidden_dropout_prob == 0.2
    assert opened.config.head_dropout == 0.3


@pytest.mark.parametrize("task", ["single_label", "token"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_positions_and_masks_of_pairs_are_read_where_they_say_what_is(task: str, family: str) -> None:
    model, batch = tiny_model(task, family), tiny_batch(ROWS, family, padding_side="left")
    mask = batch["attention_mask"]
    first = 2 if family == "roberta" else 0
    positions = (mask.cumsum(dim=1) - 1 + first).clamp(min=first // 2)
    pairs = mask[:, None, None].bool()
    additive = torch.zeros(2, 1, 20, 20).masked_fill(~(pairs & pairs.transpose(2, 3)), torch.finfo(torch.float).min)
    expected = model(**batch).logits
    for change in ({"position_ids": positions}, {"attention_mask": pairs}, {"attention_mask": additive}):
        assert torch.equal(model(**{**batch, **change}).logits, expected)
    with pytest.raises(ValueError, match=r"does not read \['position_ids'\].*position_ids that only count"):
        model(**batch, position_ids=positions + 1)
    looks_back = torch.ones(20, 20).tril().bool().expand(2, 1, 20, 20)
    with pytest.raises(ValueError, match=r"attention_mask of shape \(2, 1, 20, 20\) hides tokens from some tokens"):
        model(batch["input_ids"], looks_back)


@pytest.mark.parametrize("task", ["single_label", "token"])
@pytest.mark.parametrize("layers", [1, 2])
def test_device_maps_leave_nothing_out(task: str, layers: int) -> None:
    model = tiny_model(task, num_head_layers=layers, num_mixed_layers=2)
    size = compute_module_sizes(model)[""]
    for percent in range(40, 101, 2):
        memory = {"cpu": size * percent // 100, "disk": 10 * size}
        check_device_map(model, infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules))


def test_every_name_of_a_tagger_has_a_place() -> None:
    """torchao splits the names of a checkpoint at their last dot, and opens none that has a name without."""
    names = tiny_model("token", decoding="crf").state_dict()
    assert "marks.continues_word" in names and all("." in name for name in names)


def test_a_tagger_in_8_bits_of_torchao_opens_again(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    model = tagger()
    model.save_pretrained(tmp_path / "plain")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    few = AutoModelForTokenClassification.from_pretrained(tmp_path / "plain", quantization_config=config)
    few.save_pretrained(tmp_path / "few")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "few")
    batch = tiny_batch(ROWS)
    assert torch.equal(again(**batch).logits, few(**batch).logits)


@pytest.mark.parametrize("task", ["model", "single_label", "token"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_frozen_weights_in_half_precision_run_under_autocast(task: str, norm: str) -> None:
    kind = {"single_label": "SEQ_CLS", "token": "TOKEN_CLS", "model": "FEATURE_EXTRACTION"}[task]
    model = get_peft_model(tiny_model(task, norm_type=norm), LoraConfig(task_type=kind))
    batch = tiny_batch([70, 9])
    expected = main_output(model(**batch))
    cast_mixed_precision_params(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**batch, **tiny_labels(task, batch))
    main_output(outputs).sum().backward()
    if task != "token":  # whose answer may be another where two labels are near
        torch.testing.assert_close(main_output(outputs).float(), expected, atol=0.1, rtol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_layers_of_the_backbone_are_replicated(family: str) -> None:
    targets = ["Wqkv"] if family == "modernbert" else ["query", "value"]
    options = {"task_type": "SEQ_CLS", "layer_replication": [[0, 2], [1, 2]], "target_modules": targets}
    model = tiny_model(family=family)
    adapted = get_peft_model(model, LoraConfig(**options))
    backbone = model.model.backbone
    layers = backbone.layers if family == "modernbert" else backbone.encoder.layer
    assert (
        len(layers) == 3
        and len([name for name, _ in adapted.named_parameters() if "lora_A" in name]) == len(targets) * 3
    )
    batch = tiny_batch(ROWS, family)
    assert adapted(**batch, labels=torch.tensor([1, 0])).loss.isfinite()


@pytest.mark.parametrize("task", [task for task in TASKS if task != "model"])
def test_models_in_float16_train_and_answer_on_a_cpu(task: str) -> None:
    batch, model = tiny_batch([70, 9]), tiny_model(task)
    expected = model(**batch).logits.detach()
    model.half()
    loss = model(**batch, **tiny_labels(task, batch)).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if task != "token":
        torch.testing.assert_close(model(**batch).logits.float(), expected, atol=0.02, rtol=0.02)
