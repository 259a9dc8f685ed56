from __future__ import annotations

import pytest
from tiny_models import BACKBONES, tiny_model
from transformers import TrainingArguments

from hf_selfattn.optimizer import layer_decay_groups, layer_decay_optimizer, layer_depth


@pytest.mark.parametrize("family", BACKBONES)
def test_every_layer_has_its_rate_and_every_parameter_one_group(family: str, tmp_path: object) -> None:
    model = tiny_model(family=family)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1.0, weight_decay=0.1, use_cpu=True)
    groups = layer_decay_groups(model, arguments, decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    names = {layer_depth(name, 2): rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert names == {0: 0.125, 1: 0.25, 2: 0.5, 3: 1.0}
    for group in groups:
        assert all((parameter.dim() > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    assert len(layer_decay_optimizer(model, arguments, 0.5).param_groups) == len(groups)


def test_a_factor_out_of_range_is_named(tmp_path: object) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="layer_decay=1.5"):
        layer_decay_groups(tiny_model(), arguments, 1.5)
