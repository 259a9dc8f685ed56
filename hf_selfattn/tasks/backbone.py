"""The backbone of a run: its configuration, its tokenizer, how a model is built on it, and how it attends on a CPU.

On a CPU the backward pass of the fused kernel is slow on short inputs in bfloat16: on 128 tokens it takes almost four
times as long as plain matrix products, forward and backward together; on 512 tokens it is the faster one
(`benchmarks/speed/attention_cpu.py`). Without a backward pass plain products win on 512
tokens, too: the fused kernel multiplies in float32, and the processor is four times as fast in bfloat16.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..arguments import ModelArguments, RunArguments
from ..modeling.attention_selfattn import eager_attention_forward
from ..modeling.configuration_selfattn import SelfAttnConfig, backbone_window

# Dropout there keeps attention from its fused kernel, by the name it has in the families' configurations.
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
# Of the backbone's hidden layers, how many a probe mixes.
MIXED_LAYERS = 4
# The attention in bfloat16 on a CPU, and the longest input that a training reads by plain products.
CPU_ATTENTION, LONGEST_EAGER = "sdpa_or_eager_on_cpu", 256
# Attention weights that are computed at once without a backward pass: 2 MiB stay in the cache of a core.
WEIGHTS_AT_ONCE = 1 << 20
# A sum of exponentials between it and its reciprocal has lost none of them that counts.
LEAST_SUM = 1e-30
# A tokenizer that claims no limit makes pipelines pass a text on whole: the model reads any length.
NO_LIMIT = int(1e30)

Collate = Callable[[list[dict[str, Any]]], Any]


def integers_as_bytes(value: Any) -> bytes:
    """Return token ids and the like as bytes."""
    return np.asarray(value, dtype=np.int64).tobytes()


@dataclass(frozen=True)
class Inputs:
    """How the backbone reads the rows of a task, as `Task.encode` returns them."""

    columns: tuple[str, ...]  # of a row, that it reads; a row need not have all of them
    collate: Collate  # makes a batch of rows with these columns alone
    state: Any  # all of the processor that decides what is read, as `json` writes it
    as_bytes: Callable[[Any], bytes] = integers_as_bytes  # of the value of a column, what is read of it


def hub_options(arguments: ModelArguments) -> dict[str, str]:
    """Return what every download of the backbone has in common."""
    return {"revision": arguments.model_revision} if arguments.model_revision else {}


def open_backbone(arguments: ModelArguments) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the backbone."""
    options = hub_options(arguments)
    if (Path(arguments.model) / "adapter_config.json").is_file():
        raise ValueError(
            f"model={arguments.model!r} is a checkpoint of PEFT inside of a run. Give the folder of the run when "
            "it is done, or the command that started it, which goes on from its newest checkpoint."
        )
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, **options)
    except OSError as error:
        raise ValueError(
            f"The backbone model={arguments.model!r} cannot be opened. Give a name on the hub or a folder with "
            f"config.json, weights and tokenizer. {error}"
        ) from error
    if tokenizer.pad_token is None:
        filling = tokenizer.eos_token or tokenizer.unk_token
        if filling is None:
            raise ValueError(
                f"The tokenizer of model={arguments.model!r} has no token to pad rows with. Save a copy with one: "
                "tokenizer.add_special_tokens({'pad_token': '[PAD]'}), and the backbone with resized embeddings."
            )
        logging.getLogger(__name__).warning("The tokenizer has no padding token; %s pads (and is masked).", filling)
        tokenizer.pad_token = filling
    return getattr(config, "backbone_config", config), tokenizer


def is_tuned(arguments: ModelArguments) -> bool:
    """Return whether what is to be tuned is a model of this package, and no plain backbone."""
    return isinstance(AutoConfig.from_pretrained(arguments.model, **hub_options(arguments)), SelfAttnConfig)


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what a tokenizer is made of; how it pads and cuts depends on its last call, and is left out."""
    if not tokenizer.is_fast:
        return {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


def text_inputs(tokenizer: PreTrainedTokenizerBase) -> Inputs:
    """Return how a backbone reads tokens."""
    names = tuple(tokenizer.model_input_names)
    return Inputs(names, DataCollatorWithPadding(tokenizer), tokenizer_state(tokenizer))


def window_of(backbone_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens the backbone reads at once."""
    return backbone_window(backbone_config) or int(tokenizer.model_max_length)


def backbone_settings(arguments: ModelArguments, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return how a model opens its backbone.

    Dropout inside the backbone's attention is off unless `backbone` sets it: it keeps attention from its fused
    kernel, which costs more than half of a step on 512 tokens, and the heads have their own. Weights that were stored
    in half precision train in float32, as mixed precision does it.
    """
    if arguments.quantization == "nf4" and not torch.accelerator.is_available():
        raise ValueError("quantization='nf4' trains on an accelerator only, and here is none. Set quantization=int8.")
    no_dropout = {name: 0.0 for name in ATTENTION_DROPOUT_FIELDS if hasattr(backbone_config, name)}
    return {
        "dtype": torch.float32,
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
    """
    if arguments.tuning not in ("probe", "probe+lora"):
        return arguments.heads
    changed = copy.deepcopy(backbone_config)
    changed.update(arguments.backbone)
    num_layers = getattr(changed, "num_hidden_layers", None) or 1  # as in `SelfAttnConfig`
    start = {} if fusion_init is None else {"fusion_init": fusion_init}
    return {"num_mixed_layers": min(MIXED_LAYERS, num_layers), **start, **arguments.heads}


def attention_on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend with plain matrix products where these are faster, otherwise with the fused kernel.

    Args:
        query: (B, H, Q, E).
        key: (B, H, K, E).
        value: (B, H, K, E).
        attention_mask: True where attention is allowed, or additive; broadcasts to (B, H, Q, K). None for no mask.
        scaling: factor of the logits, 1 / sqrt(E) where it is not given.
        dropout: share of the attention weights set to 0 in training.
    """
    is_causal = kwargs.get("is_causal")
    looks_back_only = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = not looks_back_only and kwargs.get("position_bias") is None and key.shape[:2] == query.shape[:2]
    plain = plain and query.dtype == torch.bfloat16
    trains = torch.is_grad_enabled()
    if not plain or (trains and key.shape[2] > LONGEST_EAGER) or query.shape[2] * key.shape[2] > WEIGHTS_AT_ONCE:
        fused = AttentionInterface()["sdpa"]
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        attended, weights = fused(module, query, key, value, attention_mask, **options)
        return attended, weights
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not trains:
        return attend_in_slices(query * scaling, key, value, attention_mask), None
    attended, _ = eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout)
    return attended, None


def attend_in_slices(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, Q, H, E) attention, so many rows or heads at once that their weights stay in the cache.

    The softmax is the same whatever is taken off its logits. Nothing is, unless a sum of exponentials is out of range;
    that sum comes out of a column of ones beside the values. A bias that all queries share multiplies both.
    """
    B, H, Q, _ = query.shape
    matrices = max(1, WEIGHTS_AT_ONCE // (Q * key.shape[2]))
    num_rows, num_heads = max(1, matrices // H), min(H, matrices)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    weighted, added = F.pad(value, (0, 1), value=1.0), bias
    if bias is not None and bool((bias[:, :, :1] == bias).all()):
        weighted, added = weighted * bias[:, :, 0, :, None].exp(), None
    bias, added = (None if x is None else x.expand(B, H, -1, -1) for x in (bias, added))
    attended = query.new_empty(B, Q, H, value.shape[-1])
    with torch.autocast(query.device.type, enabled=False):  # it would take a softmax in float32
        for row, head in product(range(0, B, num_rows), range(0, H, num_heads)):
            here = slice(row, row + num_rows), slice(head, head + num_heads)
            weights = biased_logits(query[here], key[here], None if added is None else added[here]).exp_()
            part, total = (weights @ weighted[here]).split([value.shape[-1], 1], dim=-1)
            if bool(((total > LEAST_SUM) & (total < 1 / LEAST_SUM)).all()):
                part = part / total
            else:
                logits = biased_logits(query[here], key[here], None if bias is None else bias[here])
                part = logits.softmax(dim=-1) @ value[here]
            attended[here[0], :, here[1]] = part.transpose(1, 2)
    return attended


def biased_logits(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, H, Q, K) the logits of attention."""
    logits = query @ key.transpose(-1, -2)
    return logits if bias is None else logits.add_(bias)


AttentionInterface.register(CPU_ATTENTION, attention_on_cpu)
AttentionMaskInterface.register(CPU_ATTENTION, AttentionMaskInterface()["sdpa"])


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let a model that attends with the fused kernel choose by length instead."""
    backbone_config = getattr(model.config, "backbone_config", model.config)
    implementations = {model.config._attn_implementation, backbone_config._attn_implementation}
    if implementations == {"sdpa"}:
        model.set_attn_implementation(CPU_ATTENTION)


def use_fused_attention(model: PreTrainedModel) -> None:
    """Undo `use_fast_attention`."""
    if model.config._attn_implementation == CPU_ATTENTION:
        model.set_attn_implementation("sdpa")
