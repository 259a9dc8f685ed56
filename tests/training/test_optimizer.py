from __future__ import annotations

import re
from typing import Any

import pytest
from tiny_models import BACKBONES, tiny_model
from torch.optim import AdamW
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_selfattn import NerArguments, TextClassificationArguments
from hf_selfattn.adapters import add_lora, tune
from hf_selfattn.tasks import Task, task_of
from hf_selfattn.training.optimizer import grouped_optimizer, is_on_backbone, learning_rate_groups

RECIPE = {"model": "x", "output_dir": "x"}


def text_task(**settings: Any) -> Task[Any]:
    return task_of(TextClassificationArguments(**RECIPE, **settings))


@pytest.mark.parametrize("family", BACKBONES)
def test_every_parameter_is_in_one_group_and_matrices_alone_decay(family: str, tmp_path: object) -> None:
    model = tiny_model(family=family)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, weight_decay=0.1, use_cpu=True)
    groups = learning_rate_groups(model, arguments, heads_rate=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == (1.0 if ".backbone." in f".{name}" else 0.5), name
        assert is_on_backbone(name) == (".backbone." not in f".{name}")
    for group in groups:
        assert all((parameter.dim() > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    task = text_task(tuning="full", heads_learning_rate=0.5)
    assert len(grouped_optimizer(model, arguments, task).param_groups) == len(groups) == 4


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


def test_heads_are_slower_than_adapters_where_nobody_says_otherwise(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, use_cpu=True)
    adapted = add_lora(tiny_model("single_label"), "SEQ_CLS")
    optimizer = grouped_optimizer(adapted, arguments, text_task())
    assert {group["lr"] for group in optimizer.param_groups} == {0.3, 1.0}
    same = grouped_optimizer(adapted, arguments, text_task(heads_learning_rate=1.0))
    assert {group["lr"] for group in same.param_groups} == {1.0}
    peer = BertForSequenceClassification(BACKBONES["bert"])
    for model, tuning in ((adapted, "full"), (peer, "lora"), (peer, "probe")):
        assert grouped_optimizer(model, arguments, text_task(tuning=tuning)) is None
    tagger = task_of(NerArguments(**RECIPE, tuning="probe"))
    assert grouped_optimizer(tiny_model("token"), arguments, tagger) is None


def test_a_probe_gives_the_attention_heads_a_rate_of_their_own(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, use_cpu=True)
    model = tiny_model("single_label", num_mixed_layers=2)
    tuned = tune(model, "probe", "SEQ_CLS")
    default = grouped_optimizer(tuned, arguments, text_task(tuning="probe"))
    assert {group["lr"] for group in default.param_groups} == {0.3, 1.0}
    task = text_task(tuning="probe", heads_learning_rate=0.25)
    groups = grouped_optimizer(tuned, arguments, task).param_groups
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
    assert grouped_optimizer(adapted, arguments, text_task()) is None
    with pytest.raises(ValueError, match="galore_adamw' arranges the parameters itself"):
        grouped_optimizer(adapted, arguments, text_task(heads_learning_rate=1e-4))
