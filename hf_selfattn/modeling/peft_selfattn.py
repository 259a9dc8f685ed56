# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the methods of PEFT put their adapters in each family of backbones, by the last parts of the layers' names."""

import re
import sys
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from .subsequences_selfattn import padding_of_pairs

# The projections of queries and values, as in the LoRA paper (Hu et al., 2021).
LORA_TARGETS = {
    "albert": ["query", "value"],
    "audio-spectrogram-transformer": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "camembert": ["query", "value"],
    "deberta-v2": ["query_proj", "value_proj"],
    "distilbert": ["q_lin", "v_lin"],
    "electra": ["query", "value"],
    "hubert": ["q_proj", "v_proj"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "roberta": ["query", "value"],
    "sew": ["q_proj", "v_proj"],
    "wav2vec2": ["q_proj", "v_proj"],
    "wavlm": ["intermediate_dense", "output_dense"],
    "whisper": ["q_proj", "v_proj"],
    "xlm-roberta": ["query", "value"],
}

# Layers that never run, since the family's attention takes their weights out of them: an adapter would change nothing.
NEVER_RUN = {"wavlm": ("q_proj", "k_proj", "v_proj", "out_proj")}

# The projections of keys and values and the last layer of each feed-forward block, as in the IA3 paper (Liu et al.,
# 2022). As in PEFT's own presets, `output.dense` is also the output of attention where that has the same name.
FEEDFORWARD_TARGETS = ["output.dense", "ffn_output", "lin2", "mlp.Wo", "output_dense", "fc2"]
IA3_TARGETS = [
    "key",
    "value",
    "key_proj",
    "value_proj",
    "k_lin",
    "v_lin",
    "k",
    "v",
    "Wqkv",
    "k_proj",
    "v_proj",
    *FEEDFORWARD_TARGETS,
]

# The layer normalisations of the backbone (Zhao et al., 2024). ModernBERT's `attn_norm` is missing in its first layer.
NORM_TARGETS = [
    *("LayerNorm", "full_layer_layer_norm", "sa_layer_norm", "output_layer_norm"),
    *("embeddings.norm", "mlp_norm", "final_norm"),
    *("final_layer_norm", "self_attn_layer_norm", "encoder.layer_norm", "layernorm_before", "layernorm_after"),
]

# The projections of values, whose bias BEFT trains; ModernBERT has none.
VALUE_TARGETS = ["value", "value_proj", "v_lin", "v", "v_proj"]


def register_adapter_targets() -> None:
    """Tell PEFT, where it is imported, which layers of our models get adapters if the user names none.

    Its tables have a row per `model_type`, and ours stands for every family: in each backbone its own names are found.
    """
    constants = sys.modules.get("peft.utils.constants")
    if constants is None:
        return
    every_family = sorted({name for names in LORA_TARGETS.values() for name in names})
    special = {
        "BEFT_TARGET": VALUE_TARGETS,
        "IA3_FEEDFORWARD": FEEDFORWARD_TARGETS,
        "IA3_TARGET": IA3_TARGETS,
        "LNTUNING_TARGET": NORM_TARGETS,
    }
    for name, table in vars(constants).items():
        method = re.fullmatch("TRANSFORMERS_MODELS_TO_(.+)_MODULES_MAPPING", name)
        if method and ("bert" in table or method[1] in special):
            table.setdefault("selfattn", special.get(method[1], every_family))


def share_configuration(model: PreTrainedModel) -> None:
    """Give the modules that read the configuration the model's own: PEFT trains copies of heads and theirs."""
    kind = type(model.config)
    for module in model.modules():
        if isinstance(vars(module).get("config"), kind):
            module.config = model.config


def past_length(past_key_values: Cache | None) -> int:
    """Return P, the number of learned keys."""
    return 0 if past_key_values is None else past_key_values.get_seq_length()


def mask_of_tokens(attention_mask: Tensor | None, values: Tensor, past_key_values: Cache | None) -> Tensor | None:
    """Return the mask (B, T) of the tokens alone, of one such, or (B, 1, 1 or T, T) of pairs of tokens, or (B, P + T)
    that begins with the learned keys, as PEFT gives it.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        attention_mask = padding_of_pairs(attention_mask)
    if attention_mask is None or past_key_values is None:
        return attention_mask
    P = past_length(past_key_values)
    return attention_mask[:, P:] if attention_mask.shape[1] == P + values.shape[1] else attention_mask


def past_of_rows(past_key_values: Cache | None, rows: Tensor) -> Cache | None:
    """Return the learned keys and values of some rows, of a row as often as it is named."""
    if past_key_values is None:
        return None
    return DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in past_key_values.layers])


def past_options(
    backbone: nn.Module, past_key_values: Cache, mask_BT: Tensor | None, values: Tensor
) -> dict[str, Any]:
    """Return what the backbone is given to read learned keys and values: themselves and a mask (B, P + T)."""
    if "past_key_values" not in signature(backbone.forward).parameters:
        raise ValueError(
            f"The backbone {type(backbone).__name__} reads no past_key_values, which prefix tuning needs. Take "
            "another method of PEFT, such as LoRA or prompt tuning, or a backbone such as BERT, RoBERTa or ELECTRA."
        )
    B, T = values.shape[:2]
    if mask_BT is None:
        mask_BT = torch.ones(B, T, dtype=torch.bool, device=values.device)
    every_row = torch.arange(B, device=values.device)  # a backbone appends its own keys to what it is given
    mask = nn.functional.pad(mask_BT.long(), (past_length(past_key_values), 0), value=1)
    return {"past_key_values": past_of_rows(past_key_values, every_row), "attention_mask": mask}
