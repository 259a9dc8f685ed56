from __future__ import annotations

import re

import pytest
from tiny_models import BACKBONES, tiny_model
from torch.optim import AdamW
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_selfattn import TextClassificationArguments
from hf_selfattn.adapters import add_lora, tune
from hf_selfattn.training.optimizer import grouped_optimizer, layer_depth, learning_rate_groups


@pytest.mark.parametrize("family", BACKBONES)
def test_every_layer_has_its_rate_and_every_parameter_one_group(family: str, tmp_path: object) -> None:
    model = tiny_model(family=family)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, weight_decay=0.1, use_cpu=True)
    groups = learning_rate_groups(model, arguments, decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    names = {layer_depth(name, 2): rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert names == {0: 0.125, 1: 0.25, 2: 0.5, 3: 1.0}
    for group in groups:
        assert all((parameter.dim() > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    recipe = TextClassificationArguments(model="x", output_dir="x", tuning="full", layer_decay=0.5)
    assert len(grouped_optimizer(model, arguments, recipe).param_groups) == len(groups)


def test_heads_have_a_rate_of_their_own_under_an_adapter_too(tmp_path: object) -> None:
    model = add_lora(tiny_model("single_label"), "SEQ_CLS")
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, use_cpu=True)
    groups = learning_rate_groups(model, arguments, heads_rate=0.25)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    of_name = {name: rate[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(value == (1.0 if "lora_" in name else 0.25) for name, value in of_name.items())
    assert any("lora_" in name for name in of_name) and any("grouped_attention" in name for name in of_name)
    assert any("classifier" in name for name in of_name)
    with pytest.raises(ValueError, match="heads_learning_rate=0"):
        learning_rate_groups(model, arguments, heads_rate=0)


RECIPE = {"model": "x", "output_dir": "x"}


def test_heads_are_slower_than_adapters_where_nobody_says_otherwise(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, use_cpu=True)
    adapted = add_lora(tiny_model("single_label"), "SEQ_CLS")
    optimizer = grouped_optimizer(adapted, arguments, TextClassificationArguments(**RECIPE))
    assert {group["lr"] for group in optimizer.param_groups} == {0.3, 1.0}
    same = grouped_optimizer(adapted, arguments, TextClassificationArguments(**RECIPE, heads_learning_rate=1.0))
    assert {group["lr"] for group in same.param_groups} == {1.0}
    peer = BertForSequenceClassification(BACKBONES["bert"])
    tagger = tiny_model("token")
    for model, tuning in ((adapted, "full"), (peer, "lora"), (peer, "probe"), (tagger, "probe")):
        assert grouped_optimizer(model, arguments, TextClassificationArguments(**RECIPE, tuning=tuning)) is None


def test_a_probe_gives_the_attention_heads_a_rate_of_their_own(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, use_cpu=True)
    model = tiny_model("single_label", num_mixed_layers=2)
    tuned = tune(model, "probe", "SEQ_CLS")
    default = grouped_optimizer(tuned, arguments, TextClassificationArguments(**RECIPE, tuning="probe"))
    assert {group["lr"] for group in default.param_groups} == {0.3, 1.0}
    recipe = TextClassificationArguments(**RECIPE, tuning="probe", heads_learning_rate=0.25)
    groups = grouped_optimizer(tuned, arguments, recipe).param_groups
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    of_name = {name: rate[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    fast = {"model.heads.layer_weight", *(f"classifier.{name}" for name, _ in model.classifier.named_parameters())}
    assert {name for name, value in of_name.items() if value == 1.0} == fast
    slow = {value for name, value in of_name.items() if re.search("attention|_norm|fusion", name)}
    assert slow == {0.25} and len(fast) < len(of_name)


def test_an_optimizer_that_arranges_the_parameters_itself(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), optim="galore_adamw", use_cpu=True)
    # As `Trainer` answers for GaLore where its package is installed.
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda *_: (AdamW, {"lr": 1.0, "params": []}))
    adapted = add_lora(tiny_model("single_label"), "SEQ_CLS")
    assert grouped_optimizer(adapted, arguments, TextClassificationArguments(**RECIPE)) is None
    with pytest.raises(ValueError, match="galore_adamw' arranges the parameters itself"):
        grouped_optimizer(adapted, arguments, TextClassificationArguments(**RECIPE, heads_learning_rate=1e-4))


def test_a_factor_out_of_range_is_named(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="layer_decay=1.5"):
        learning_rate_groups(tiny_model(), arguments, 1.5)
