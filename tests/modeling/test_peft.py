from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import aligned, tiny_batch, tiny_labels, tiny_model

TARGETS = {"bert": ["query", "value"], "modernbert": ["Wqkv"], "distilbert": ["q_lin", "v_lin"]}


def lora(family: str) -> LoraConfig:
    return LoraConfig(r=4, target_modules=TARGETS[family], modules_to_save=["heads", "classifier"])


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("task", ["single_label", "token"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_and_heads_train_and_nothing_else(family: str, task: str, checkpointing: bool) -> None:
    model = tiny_model(task, family, num_mixed_layers=2)
    heads = {name for name, _ in model.named_parameters() if "heads." in name or "classifier." in name}
    adapted = get_peft_model(model, lora(family)).train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    batch = tiny_batch([70, 9], family)
    adapted(**batch, **tiny_labels(task, batch)).loss.backward()
    trained = set()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"No gradient for {name}"
            assert "lora_" in name or ".modules_to_save." in name, f"{name} is not to be trained"
            trained.add(name.removeprefix("base_model.model.").replace("modules_to_save.default.", ""))
    assert heads <= trained
    assert any("lora_B" in name for name in trained)


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("task", ["single_label", "token"])
def test_saved_adapter_is_equal(family: str, task: str, tmp_path: Path) -> None:
    adapted = get_peft_model(tiny_model(task, family), lora(family))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path)
    other = tiny_model(task, family, seed=1)  # the same backbone, other heads and so other prototypes
    other.model.backbone.load_state_dict(tiny_model(task, family).model.backbone.state_dict())
    reopened = PeftModel.from_pretrained(other, tmp_path)
    prototypes = [model.base_model.model.model.heads.modules_to_save["default"] for model in (adapted, reopened)]
    first, second = (heads.layers[0].grouped_attention.prototypes for heads in prototypes)
    assert torch.equal(first, second)
    batch = tiny_batch([70, 9], family)
    with torch.no_grad():
        assert torch.equal(aligned(reopened.eval())(**batch).logits, adapted.eval()(**batch).logits)


def test_merged_adapter_is_equal() -> None:
    adapted = get_peft_model(tiny_model(), lora("bert"))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    batch = tiny_batch([70, 9])
    expected = adapted.eval()(**batch).logits
    torch.testing.assert_close(adapted.merge_and_unload()(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_the_trained_copy_of_the_heads_attends_as_the_model_is_told() -> None:
    model = tiny_model()
    adapted = get_peft_model(model, lora("bert")).eval()
    batch = tiny_batch([20, 9])
    before = adapted(**batch).logits
    model.set_attn_implementation("eager")
    copies = adapted.base_model.model.model.heads.modules_to_save
    assert copies["default"].layers[0].grouped_attention.config is model.config
    outputs = adapted(**batch, output_attentions=True)
    torch.testing.assert_close(outputs.logits, before, atol=1e-5, rtol=0)
    assert outputs.summary_attentions[0].shape[2] == 20


def test_peft_asks_for_nothing_deprecated() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        adapted = get_peft_model(tiny_model(), lora("bert"))
        assert not adapted.base_model.model.is_gradient_checkpointing
