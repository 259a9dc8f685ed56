"""The backbone of a run: its configuration, its tokenizer, and how a model is built on it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..arguments import ModelArguments, RunArguments
from ..modeling.configuration_selfattn import backbone_window

# Dropout there keeps attention from its fused kernel, by the name it has in the families' configurations.
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
# Of the backbone's hidden layers, how many a probe mixes.
MIXED_LAYERS = 4


def hub_options(arguments: ModelArguments) -> dict[str, str]:
    """Return what every download of the backbone has in common."""
    return {"revision": arguments.model_revision} if arguments.model_revision else {}


def open_backbone(arguments: ModelArguments) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the backbone.

    Raises:
        ValueError: if there is no such backbone.
    """
    options = hub_options(arguments)
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        return config, AutoTokenizer.from_pretrained(arguments.model, **options)
    except OSError as error:
        raise ValueError(
            f"The backbone model={arguments.model!r} cannot be opened. Give a name on the hub or a folder with "
            f"config.json, weights and tokenizer. {error}"
        ) from error


def window_of(backbone_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens the backbone reads at once."""
    return backbone_window(backbone_config) or int(tokenizer.model_max_length)


def backbone_settings(arguments: ModelArguments, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return how a model opens its backbone.

    Dropout inside the backbone's attention is off unless `backbone` sets it: it keeps attention from its fused
    kernel, which costs more than half of a step on 512 tokens, and the heads have their own.

    Raises:
        ValueError: for 4 bits without an accelerator: on a CPU bitsandbytes cannot train after an evaluation.
    """
    if arguments.quantization == "nf4" and not torch.accelerator.is_available():
        raise ValueError("quantization='nf4' trains on an accelerator only, and here is none. Set quantization=int8.")
    no_dropout = {name: 0.0 for name in ATTENTION_DROPOUT_FIELDS if hasattr(backbone_config, name)}
    return {
        "hub_options": hub_options(arguments),
        "backbone_options": {**no_dropout, **arguments.backbone},
        "backbone_quantization": arguments.quantization,
    }


def head_settings(
    arguments: RunArguments, backbone_config: PreTrainedConfig, fusion_init: float | None
) -> dict[str, Any]:
    """Return the fields of the heads. A probe mixes the last `MIXED_LAYERS` layers unless `heads` says how many.

    The last layer of a frozen backbone is made for what it was trained on, and its last four layers together say more
    of another task (Devlin et al., 2019, section 5.3; benchmarks/LOG.md).

    Args:
        arguments: of the run.
        backbone_config: configuration of the backbone as it was trained.
        fusion_init: first weights of the attentions in the sum of a probe; None leaves them as the heads have them.
    """
    if arguments.tuning not in ("probe", "probe+lora"):
        return arguments.heads
    changed = copy.deepcopy(backbone_config)
    changed.update(arguments.backbone)
    num_layers = getattr(changed, "num_hidden_layers", None) or 1  # as in `SelfAttnConfig`
    start = {} if fusion_init is None else {"fusion_init": fusion_init}
    return {"num_mixed_layers": min(MIXED_LAYERS, num_layers), **start, **arguments.heads}
