# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters of PEFT: where they go in each family of backbones, and checkpoints without the backbone's weights.

Such a checkpoint has the configuration at the top and the files of PEFT in a folder of their own, because Transformers
takes a repository with `adapter_config.json` at its top for one of the base model's class.
"""

import copy
import json
import os
import re
import sys
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import cached_file

from .backbone_selfattn import attach_backbone
from .configuration_selfattn import check_backbone_name
from .subsequences_selfattn import padding_of_pairs

# Transformers takes every parameter whose name contains an adapter's name for a weight of that adapter.
ADAPTER_NAME = "selfattn_adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What is neither the backbone's nor the adapter's: heads that were not trained, and buffers.
OTHER_WEIGHTS = "other_weights.safetensors"

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Passed on by auto classes and pipelines; they say nothing here.
UNREAD_OPTIONS = ("adapter_kwargs", "code_revision", "low_cpu_mem_usage", "trust_remote_code", "weights_only")

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
    read = signature(backbone.forward).parameters
    name = next((name for name in ("past_key_values", "cache") if name in read), None)  # "cache" from 5.24 on
    if name is None:
        raise ValueError(
            f"The backbone {type(backbone).__name__} reads no past_key_values, which prefix tuning needs. Take "
            "another method of PEFT, such as LoRA or prompt tuning, or a backbone such as BERT, RoBERTa or ELECTRA."
        )
    B, T = values.shape[:2]
    if mask_BT is None:
        mask_BT = torch.ones(B, T, dtype=torch.bool, device=values.device)
    every_row = torch.arange(B, device=values.device)  # a backbone appends its own keys to what it is given
    mask = nn.functional.pad(mask_BT.long(), (past_length(past_key_values), 0), value=1)
    return {name: past_of_rows(past_key_values, every_row), "attention_mask": mask}


def adapter_subfolder(
    config_class: type[PreTrainedConfig], name_or_path: Any, config: Any, options: dict[str, Any]
) -> str | None:
    """Return the sub-folder of a checkpoint's adapter, or None where the checkpoint holds all weights."""
    if isinstance(config, PreTrainedConfig):
        return getattr(config, "adapter_subfolder", None)
    if name_or_path is None:
        return None
    return config_class.get_config_dict(config or name_or_path, **only_hub(options))[0].get("adapter_subfolder")


def only_hub(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that say which files are read."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def open_adapter_checkpoint(
    model_class: type[PreTrainedModel], name_or_path: str | os.PathLike[str], config: Any, options: dict[str, Any]
) -> Any:
    """Return the model of a checkpoint without backbone weights; it holds its `PeftModel` in `adapted`.

    Args:
        options: of `from_pretrained`: those of files on the hub, `dtype`, `attn_implementation`, `device_map` for one
            device, `output_loading_info`, fields of the configuration; `backbone_name_or_path`, where the backbone is;
            `with_adapter=False` for the model that the adapter stands on; `is_trainable`.
    """
    hub = only_hub(options)
    unread = (*UNREAD_OPTIONS, *HUB_OPTIONS)
    options = {name: value for name, value in options.items() if name not in unread and value is not None}
    recorded = model_class.config_class.get_config_dict(name_or_path, **hub)[0]
    check_backbone_name(recorded.get("backbone_name_or_path"))
    dtype = options.pop("dtype", options.pop("torch_dtype", None))
    device = single_device(options.pop("device_map", None))
    place = options.pop("backbone_name_or_path", None)
    with_adapter, is_trainable = options.pop("with_adapter", True), options.pop("is_trainable", False)
    wants_info = options.pop("output_loading_info", False)
    config, attention = read_configuration(model_class, name_or_path, config, hub, options)
    refuse_other_class(model_class, config, name_or_path)

    config = copy.deepcopy(config)
    place = place or config.backbone_name_or_path  # the auto classes put the caller's argument there
    config.backbone_name_or_path = recorded.get("backbone_name_or_path")
    model = model_class(config)
    open_its_backbone(model, place, name_or_path, hub)
    if attention is not None:
        model.set_attn_implementation(attention)
    model = model.to(named_dtype(dtype) or named_dtype(recorded.get("dtype")) or model.base_model.backbone.dtype)
    others = read_other_weights(model, name_or_path, config.adapter_subfolder, hub)
    # The model is an ordinary one from here on: saved whole, it is a whole checkpoint.
    subfolder, config.adapter_subfolder = config.adapter_subfolder, None
    if with_adapter:
        model = add_saved_adapter(model, adapter_folder(name_or_path, subfolder, hub), is_trainable, others)
    model = model.to(device).eval()
    info: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    return (model, info) if wants_info else model


def read_configuration(
    model_class: type[PreTrainedModel], name_or_path: Any, config: Any, hub: dict[str, Any], options: dict[str, Any]
) -> tuple[Any, Any]:
    """Return the configuration of a checkpoint, with the caller's fields, and the attention that the caller wants."""
    if options.pop("use_safetensors", True) is False:
        raise ValueError("use_safetensors=False is refused: an adapter is read from safetensors only.")
    if not isinstance(config, PreTrainedConfig):
        config, options = model_class.config_class.from_pretrained(
            name_or_path, return_unused_kwargs=True, **hub, **options
        )
    attention = options.pop("attn_implementation", None)
    left = sorted(name for name in options if not name.startswith("_"))
    if left:
        raise ValueError(
            f"{name_or_path} holds an adapter without its backbone, which cannot be opened with {left}. Merge it and "
            "save the model whole first."
        )
    return config, attention


def named_dtype(dtype: Any) -> torch.dtype | None:
    """Return a type of weights by its name, or None where no certain one is asked for."""
    if isinstance(dtype, str):
        return None if dtype == "auto" else getattr(torch, dtype.removeprefix("torch."))
    return dtype


def single_device(device_map: Any) -> torch.device:
    """Return the one device that a map names."""
    device = device_map[""] if isinstance(device_map, dict) and set(device_map) == {""} else device_map
    if device is None:
        return torch.device("cpu")
    if isinstance(device, dict) or device in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError(
            f"device_map={device_map!r} is refused for an adapter checkpoint. Name one device, as 'cuda:0'."
        )
    return torch.device(device)


def refuse_other_class(model_class: type, config: PreTrainedConfig, name_or_path: Any) -> None:
    """Raise an error where an adapter was trained on a model of another class."""
    saved = (config.architectures or [model_class.__name__])[0]
    if saved != model_class.__name__:
        raise ValueError(
            f"The adapter in {name_or_path} was trained on {saved}, and {model_class.__name__} cannot take it. Open "
            f"it with {saved.replace('SelfAttn', 'AutoModel', 1)}."
        )


def open_its_backbone(model: PreTrainedModel, place: str | None, checkpoint: Any, hub: dict[str, Any]) -> None:
    """Give the model the backbone that its adapter was trained on."""
    config = model.config
    mend = (
        "Say where it is: from_pretrained(…, backbone_name_or_path=FOLDER), in a pipeline model_kwargs={…}, on the "
        "command line backbone_name_or_path=FOLDER."
    )
    if place is None:
        raise ValueError(f"{checkpoint} was trained on a backbone in a folder, whose place it does not keep. {mend}")
    options = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
    if place == config.backbone_name_or_path and not os.path.isdir(place):
        options["revision"] = config.backbone_revision
    try:
        found = attach_backbone(model, place, options)
    except OSError as error:
        raise ValueError(f"The backbone {place!r} of {checkpoint} does not open ({error}). {mend}") from error
    if found != config.backbone_hash:
        raise ValueError(
            f"{checkpoint} was trained on another backbone than {place!r}: the hash of its weights was "
            f"{config.backbone_hash}, and here it is {found}. {mend}"
        )


def checkpoint_file(name_or_path: Any, filename: str, hub: dict[str, Any]) -> Path | None:
    """Return the path of a checkpoint's file, fetched where needed, or None where the checkpoint has no such file."""
    inside = PurePosixPath(hub.get("subfolder") or "") / filename
    if os.path.isdir(name_or_path):
        path = Path(name_or_path) / inside
        return path if path.is_file() else None
    options = {name: value for name, value in hub.items() if name != "subfolder"}
    try:
        path = cached_file(name_or_path, inside.name, subfolder=str(inside.parent).removeprefix("."), **options)
    except OSError:
        return None
    return None if path is None else Path(path)


def adapter_folder(name_or_path: Any, subfolder: str, hub: dict[str, Any]) -> Path:
    """Return the local folder with an adapter's files."""
    files = {
        name: checkpoint_file(name_or_path, f"{subfolder}/{name}", hub) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    }
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise ValueError(
            f"{name_or_path} has no {' and no '.join(missing)} in {subfolder}. Weights are read from safetensors "
            "only, never from a pickle such as adapter_model.bin. Save or fetch the checkpoint again."
        )
    return cast(Path, files[ADAPTER_WEIGHTS]).parent


def read_other_weights(model: PreTrainedModel, name_or_path: Any, subfolder: str, hub: dict[str, Any]) -> set[str]:
    """Load what a checkpoint holds beside its adapter, and return the names."""
    path = checkpoint_file(name_or_path, f"{subfolder}/{OTHER_WEIGHTS}", hub)
    weights = {} if path is None else load_file(path)
    unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{name_or_path}: {OTHER_WEIGHTS} holds {unexpected}, which the model does not have.")
    return set(weights)


def add_saved_adapter(model: PreTrainedModel, folder: Path, is_trainable: bool, others: set[str]) -> PreTrainedModel:
    """Return the model with a saved adapter inside, all of whose weights were there."""
    try:
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    except ImportError as error:
        raise ImportError("This checkpoint holds an adapter; opening it needs PEFT: pip install peft") from error
    mend = "Fetch the checkpoint again, or open it with the versions of PEFT and Transformers that wrote it."
    options: dict[str, Any] = {"is_trainable": is_trainable, "torch_device": "cpu"}
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=ADAPTER_NAME, **options)
    except Exception as error:  # PEFT has no error of its own for a file that was changed, or that is too new for it
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} does not open ({type(error).__name__}: {error}). {mend}"
        ) from error
    refuse_prompts(adapted)
    needed = plain_names(get_peft_model_state_dict(adapted, adapter_name=ADAPTER_NAME, save_embedding_layers=False))
    needed |= set(other_weights(adapted))
    found = plain_names(load_peft_weights(str(folder), device="cpu")) | others
    if needed != found:
        raise ValueError(
            f"The adapter in {folder} does not fit its model: it lacks {sorted(needed - found)[:5]} and has left over "
            f"{sorted(found - needed)[:5]}. {mend}"
        )
    opened: Any = adapted.get_base_model()
    opened.adapted = (adapted,)  # in a tuple: as a submodule it would contain itself
    return opened


def plain_names(weights: dict[str, Tensor]) -> set[str]:
    """Return the names of an adapter's weights, without those that PEFT also writes under an adapter's own name."""
    return {name for name in weights if not {"modules_to_save", "original_module"} & set(name.split("."))}


def refuse_prompts(adapted: Any) -> None:
    """Raise an error for a method that puts tokens before the input instead of changing the model."""
    kinds = [config.peft_type for config in adapted.peft_config.values() if config.is_prompt_learning]
    if kinds:
        raise ValueError(
            f"{getattr(kinds[0], 'value', kinds[0])} acts outside of the model, so no auto class opens it from an "
            "adapter checkpoint. Take a method that changes layers, such as LoRA or IA3, or save it with PEFT."
        )


def other_weights(adapted: Any) -> dict[str, Tensor]:
    """Return the weights that neither the backbone nor the adapter has, under their names in the plain model."""
    model = adapted.get_base_model()
    backbone = "backbone." if model.base_model is model else f"{model.base_model_prefix}.backbone."
    # PEFT keys everything of an adapter by its name, and keeps the untrained copy of what it trains in full.
    not_plain = {*adapted.peft_config, "original_module"}
    return {
        name.replace(".base_layer.", "."): value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(backbone) and not not_plain & set(name.split("."))
    }


def carries_adapter(model: PreTrainedModel) -> bool:
    """Return whether a model that was opened with its adapter still has it, not merged."""
    return bool(model.adapted) and any(ADAPTER_NAME in name.split(".") for name in model.state_dict())


def save_adapter_checkpoint(adapted: Any, folder: str | os.PathLike[str]) -> None:
    """Write the adapter of a model, its heads and its configuration, without the weights of the backbone."""
    model, folder = adapted.get_base_model(), Path(folder)
    if model.config.backbone_hash is None:
        raise ValueError(
            "An adapter alone can be saved only for a backbone as `from_backbone` opened it; this one was made anew, "
            "or its vocabulary was resized. Merge the adapter and save the model whole."
        )
    if len(adapted.active_adapters) != 1:
        raise ValueError(f"{adapted.active_adapters} are active; one is saved. Choose it: model.set_adapter(NAME).")
    refuse_prompts(adapted)
    check_backbone_name(model.config.backbone_name_or_path)
    config = copy.deepcopy(model.config)
    config.adapter_subfolder = ADAPTER_NAME
    config.architectures = [type(model).__name__]
    config.dtype = str(model.base_model.backbone.dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    if model._auto_class is not None:
        custom_object_save(model, folder, config=config)
    save_peft_files(adapted, folder / ADAPTER_NAME)
    others = other_weights(adapted)
    if others:
        save_file(others, folder / ADAPTER_NAME / OTHER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)


def save_peft_files(adapted: Any, folder: Path) -> None:
    """Let PEFT write the active adapter, and take out what names a folder of this machine."""
    (name,) = adapted.active_adapters
    adapted.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    if name != "default":
        for path in (folder / name).iterdir():
            path.replace(folder / path.name)
        (folder / name).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
    content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = content["revision"] = None
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            content[key] = sorted(set(value))  # in one order; PEFT adds its own again each time
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
