from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import BACKBONES, main_output, tiny_batch, tiny_labels, tiny_model

from hf_selfattn import SelfAttnModel
from hf_selfattn.adapters import (
    add_lora,
    backbone_layers,
    count_parameters,
    lora_config,
    merge_adapters,
    method_config,
    tune,
)

KINDS = {"single_label": "SEQ_CLS", "token": "TOKEN_CLS"}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("family", BACKBONES)
def test_adapters_and_heads_train_and_nothing_else(family: str, task: str) -> None:
    model = add_lora(tiny_model(task, family), KINDS[task], r=4)
    model.train()
    batch = tiny_batch([40, 9], family)
    model(**batch, **tiny_labels(task, batch)).loss.backward()
    for name, parameter in model.named_parameters():
        in_head = ".modules_to_save.default." in name
        assert parameter.requires_grad == ("lora_" in name or in_head), name
        assert (parameter.grad is not None) == parameter.requires_grad, f"No gradient for {name}"
    adapted = {
        name.split(".lora_A")[0].split(".backbone.")[-1] for name, _ in model.named_parameters() if "lora_A" in name
    }
    assert adapted == set(backbone_layers(tiny_model(task, family)))
    assert not any(
        "lora" in name and (".heads." in name or ".classifier." in name) for name, _ in model.named_parameters()
    )


def test_merged_adapters_answer_the_same() -> None:
    batch = tiny_batch([40, 9])
    model = add_lora(tiny_model(), "SEQ_CLS", r=4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    before = main_output(model.eval()(**batch))
    merged = merge_adapters(model)
    assert type(merged).__name__ == "SelfAttnForSequenceClassification"
    torch.testing.assert_close(main_output(merged(**batch)), before, atol=1e-5, rtol=0)
    assert merge_adapters(merged) is merged


def test_every_linear_layer_of_the_backbone_is_adapted() -> None:
    model = tiny_model()
    config = lora_config(model, "SEQ_CLS")
    assert set(config.target_modules) == set(backbone_layers(model))
    assert config.target_modules == lora_config(model, "SEQ_CLS", target_modules="all-linear").target_modules
    names = [name for name, _ in add_lora(model, "SEQ_CLS").named_parameters() if "lora_A" in name]
    assert len(names) == 2 * 6 and all(".backbone." in name for name in names)


@pytest.mark.parametrize("method", ["LORA", "IA3"])
def test_a_second_adapter_finds_the_layers_under_the_first(method: str) -> None:
    model = tiny_model()
    expected = backbone_layers(model)
    get_peft_model(model, method_config(model, method, "SEQ_CLS"))
    assert backbone_layers(model) == expected


def test_options_of_peft_win() -> None:
    config = lora_config(tiny_model(), "SEQ_CLS", r=2, lora_alpha=7, use_dora=True, target_modules=["key"])
    assert (config.r, config.lora_alpha, config.use_dora, config.target_modules) == (2, 7, True, {"key"})
    with pytest.raises(ValueError, match="task_type='NER' is unknown"):
        lora_config(tiny_model(), "NER")


@pytest.mark.parametrize("task", KINDS)
def test_the_task_is_that_of_the_model(task: str) -> None:
    model = tiny_model(task)
    assert lora_config(model).task_type == method_config(model, "IA3").task_type == KINDS[task]
    assert add_lora(model, r=4).peft_config["default"].task_type == KINDS[task]
    with pytest.raises(ValueError, match="task_type=None is unknown for a configuration alone; it is one of SEQ_CLS"):
        lora_config(tiny_model(task).config)


class Twice(SelfAttnModel):
    """A model of somebody's own, for a task that PEFT has no name for."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().forward(*args, **kwargs).last_hidden_state


def test_a_model_of_ones_own_takes_adapters() -> None:
    model = add_lora(Twice(tiny_model("model").config), r=4)
    assert model.peft_config["default"].task_type is None
    assert model.peft_config["default"].modules_to_save == ["heads"]
    assert model(**tiny_batch([40, 9])).shape == (2, 40, 32)


def test_parameters_are_counted() -> None:
    model = tiny_model()
    every = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == {"all": every, "trainable": every}
    tuned = add_lora(model, "SEQ_CLS", r=4)
    assert 0 < count_parameters(tuned)["trainable"] < every < count_parameters(tuned)["all"]


@pytest.mark.parametrize("options", [{}, {"num_mixed_layers": 2}, {"decoding": "crf"}])
@pytest.mark.parametrize("task", KINDS)
def test_the_configuration_alone_is_enough(task: str, options: dict[str, Any]) -> None:
    model = tiny_model(task, **options)
    assert lora_config(model.config, KINDS[task], r=4).to_dict() == lora_config(model, KINDS[task], r=4).to_dict()
    assert lora_config(model.config, KINDS[task], target_modules="all-linear").target_modules


def test_a_frozen_backbone_stays_without_dropout() -> None:
    model = tune(tiny_model(), "probe", "SEQ_CLS").train()
    assert model.training and model.model.heads.training and not model.model.backbone.training
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".backbone." not in name}
    assert tune(tiny_model(), "lora", "SEQ_CLS").train().get_base_model().model.backbone.training
    assert tune(tiny_model(), "full", "SEQ_CLS").train().model.backbone.training
