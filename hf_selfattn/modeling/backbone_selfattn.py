# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""The backbone of a model: which encoders can be one, how it is built and opened, and what the heads read of it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, logging
from transformers.utils.hub import extract_commit_hash

from .attention_selfattn import asks_for_kernels, is_flash
from .configuration_selfattn import SOUND, SelfAttnConfig, main_input_of
from .subsequences_selfattn import TokenRows, gather_tokens, pack, right_padded_rows, row_starts, unpack

logger = logging.get_logger(__name__)

# Backbones that hand the ends of rows on to FlashAttention and take the positions of tokens.
READ_PACKED_ROWS = ("bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")


def refuse_decoder(backbone_config: PreTrainedConfig) -> None:
    """Raise an error for a backbone that does not read its input in both directions."""
    if main_input_of(backbone_config) == SOUND:  # Whisper's decoder is left out
        return
    kind = type(backbone_config)
    only_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    if backbone_config.is_encoder_decoder or getattr(backbone_config, "is_decoder", False) or only_causal:
        raise ValueError(
            f"The backbone {backbone_config.model_type!r} is a decoder: its features look at one side of a token "
            "only. Take an encoder such as BERT, RoBERTa, MPNet, DeBERTa or ModernBERT."
        )


def refuse_other_input(model_class: type[PreTrainedModel], config: SelfAttnConfig) -> None:
    """Raise an error where a task model reads something else than its backbone."""
    found = main_input_of(config.backbone_config)
    if found != model_class.main_input_name:
        raise ValueError(
            f"{model_class.__name__} reads {model_class.main_input_name}, but the backbone "
            f"{config.backbone_config.model_type!r} reads {found}. Take another backbone or another model class."
        )


def refuse_quantised(config: PreTrainedConfig) -> None:
    """Raise an error where a whole model with quantised weights is to be saved."""
    if config.backbone_quantization != "none":
        raise ValueError(
            f"The backbone is quantised ({config.backbone_quantization}), and a whole model is saved in full "
            "precision only. Save an adapter: hf_selfattn.hub.saving.save_adapter(model, tokenizer, folder)."
        )


def open_backbone_config(
    name_or_path: str, hub_options: dict[str, Any], fields: dict[str, Any], main_input: str
) -> PreTrainedConfig:
    """Return the configuration of an encoder; of CLIP and its like that of the tower that reads images."""
    config = AutoConfig.from_pretrained(name_or_path, **hub_options, **fields)
    if main_input == "pixel_values" and hasattr(config, "vision_config"):
        config = config.vision_config
        for name, value in fields.items():
            setattr(config, name, value)
    refuse_decoder(config)
    return config


def build_backbone(backbone_config: PreTrainedConfig) -> PreTrainedModel:
    """Return a backbone with fresh weights."""
    refuse_decoder(backbone_config)
    return encoder_of(auto_class(backbone_config).from_config(backbone_config, **pooler_options(backbone_config)))


def auto_class(backbone_config: PreTrainedConfig) -> Any:
    """Return the class that builds a backbone, of Whisper one that has no decoder."""
    return AutoModelForAudioClassification if backbone_config.is_encoder_decoder else AutoModel


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder of a model that has more than that."""
    return model.get_encoder() if model.config.is_encoder_decoder else model


def pooler_options(backbone_config: PreTrainedConfig) -> dict[str, bool]:
    """Return the option that leaves out the backbone's pooler, whose weights would receive no gradient."""
    has_pooler = "add_pooling_layer" in signature(MODEL_MAPPING[type(backbone_config)]).parameters
    return {"add_pooling_layer": False} if has_pooler else {}


def load_backbone(
    name_or_path: str, config: PreTrainedConfig, hub_options: dict[str, Any], quantization: str = "none"
) -> PreTrainedModel:
    """Return a backbone with its pretrained weights; say so where some of them are missing.

    Weights of the checkpoint that the backbone does not have, such as its pooler's, are left out without a report:
    that is meant.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, found = auto_class(config).from_pretrained(
            name_or_path,
            config=config,
            output_loading_info=True,
            use_safetensors=True,
            **pooler_options(config),
            **quantization_options(quantization),
            **hub_options,
        )
    finally:
        logging.set_verbosity(verbosity)
    backbone = encoder_of(model)
    prefix = "" if backbone is model else "encoder."
    if missing := sorted(name for name in found["missing_keys"] if name.startswith(prefix)):
        logger.warning(
            f"{name_or_path!r} has no weights for {missing}: they start at random. Check that it is the checkpoint "
            "that you mean."
        )
    return backbone


def quantization_options(quantization: str) -> dict[str, Any]:
    """Return the options of `from_pretrained` that quantise weights."""
    if quantization == "none":
        return {}
    if quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}


def load_quantised(
    name_or_path: str, config: PreTrainedConfig, hub_options: dict[str, Any], quantization: str
) -> PreTrainedModel:
    """Return a backbone whose linear layers keep their weights in few bits."""
    try:
        backbone = load_backbone(name_or_path, config, hub_options, quantization)
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"backbone_quantization={quantization!r} does not work here ({error}). It needs bitsandbytes (pip install "
            "bitsandbytes) and a device that it supports; with 'none' the backbone is not quantised."
        ) from error
    del backbone.config.quantization_config  # `backbone_quantization` says it, and weights are quantised as they load
    return backbone


def attach_backbone(model: PreTrainedModel, name_or_path: str, hub_options: dict[str, Any]) -> str:
    """Give a model the pretrained weights of its backbone, and return their hash, taken before they are quantised."""
    quantization = model.config.backbone_quantization
    backbone = load_backbone(name_or_path, model.config.backbone_config, hub_options)
    found = weights_hash(backbone)
    if quantization != "none":
        backbone = load_quantised(name_or_path, model.config.backbone_config, hub_options, quantization)
    before = model.base_model.backbone
    shed_unread_weights(backbone, {name for name, _ in before.named_parameters()}, set(before.state_dict()))
    if os.path.isdir(name_or_path):
        backbone.config.name_or_path = ""  # a checkpoint never names a folder of the machine that wrote it
    model.base_model.backbone = backbone
    model.config.backbone_config = backbone.config
    return found


def shed_unread_weights(backbone: PreTrainedModel, read: set[str], run: set[str]) -> None:
    """Take those parameters out of training that no feature depends on, so that none waits for a gradient.

    Args:
        read: names of the parameters that features depend on.
        run: names of the weights of modules that run. Other modules leave; of these the parameters become buffers.
    """
    for name in [name for name, _ in backbone.named_parameters() if name not in read]:
        place, _, last = name.rpartition(".")
        owner = backbone.get_submodule(place)
        if name not in run:
            backbone.set_submodule(place, nn.Identity())
        elif last in dict(owner.named_parameters(recurse=False)):
            weight = getattr(owner, last).detach()
            delattr(owner, last)
            owner.register_buffer(last, weight)


def reads_packed_rows(backbone: PreTrainedModel, rows: TokenRows) -> bool:
    """Return whether a backbone reads rows with no padding between them: by FlashAttention that knows their ends."""
    if torch.compiler.is_compiling() or rows.mask_BN is None or not asks_for_kernels():
        return False
    # Nothing is dispatched here: it is Transformers that does. trf-ignore: TRF051
    return backbone.config.model_type in READ_PACKED_ROWS and is_flash(backbone.config._attn_implementation)


def padded_inputs(rows: TokenRows) -> dict[str, Any]:
    """Return what a backbone reads of padded rows."""
    inputs: dict[str, Any] = {"input_ids" if rows.values.dim() == 2 else "inputs_embeds": rows.values}
    inputs |= {"attention_mask": None if rows.mask_BN is None else rows.mask_BN.long()}
    return inputs | ({} if rows.types_BN is None else {"token_type_ids": rows.types_BN})


def packed_inputs(rows: TokenRows, first_position: int) -> tuple[dict[str, Any], Tensor]:
    """Return what a backbone reads of packed rows, and where their tokens stood."""
    mask_BN = cast(Tensor, rows.mask_BN)
    N = mask_BN.shape[1]
    values, places_T = pack(rows.values, mask_BN)
    types = None if rows.types_BN is None else pack(rows.types_BN, mask_BN)[0]
    positions = (places_T % N + first_position)[None]  # rows are padded at the right
    starts = row_starts(mask_BN.sum(dim=1)).int()
    lengths = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": N, "max_length_k": N}
    return {**padded_inputs(TokenRows(values, types)), "position_ids": positions, **lengths}, places_T


def unpacked(layers: tuple[Tensor, ...], places_T: Tensor | None, rows: TokenRows) -> tuple[Tensor, ...]:
    """Return hidden states, of packed rows at their places among padding."""
    if places_T is None:
        return layers
    shape = cast(Tensor, rows.mask_BN).shape
    return tuple(unpack(layer, places_T, *shape) for layer in layers)


@dataclass
class BackboneFeatures:
    """What the heads know of an input, be it a text, an image or a sound."""

    layers: tuple[Tensor, ...]  # (B, N, D) that the heads mix; of each row, what is real stands first
    lengths_B: Tensor | None = None  # how many of a row's N positions are real, or None where all are
    inverse_BT: Tensor | None = None  # the place of each position of the input, or None where the order is the same
    hidden_states: tuple[Tensor, ...] = ()  # all that were computed, in the order of `layers`
    attentions: tuple[Tensor, ...] | None = None  # the backbone's, where they were asked for
    map_size: tuple[int, int] | None = None  # of images, in cells, which stand row by row in the order of the input
    num_prefix_tokens: int = 0  # how many tokens stand before the map, such as CLS

    def in_input_order(self, features_BND: Tensor) -> Tensor:
        """Return features, such as one of the layers, in the order of the input: (B, T, D)."""
        return features_BND if self.inverse_BT is None else gather_tokens(features_BND, self.inverse_BT)

    def real_positions(self) -> Tensor | None:
        """Return (B, T) True at what is no padding, in the order of the input, or None where nothing is padding."""
        if self.lengths_B is None:
            return None
        place_BT = self.inverse_BT
        if place_BT is None:
            place_BT = torch.arange(self.layers[-1].shape[1], device=self.lengths_B.device)[None]
        return place_BT < self.lengths_B[:, None]


def copied(layer: Tensor, place: Callable[[Tensor], Tensor], goes_on: bool = False) -> Tensor:
    """Return hidden states at other places; after `retain_grad` they get the gradient of their source."""
    copy = place(layer)
    if torch.compiler.is_compiling():
        return copy
    source, before = vars(layer).pop("source", (layer, None))
    if copy is layer or not layer.requires_grad:
        return copy
    kept = ref(copy)  # a strong one would keep the graph alive

    def pass_on(gradient: Tensor) -> None:
        found = kept()
        if found is not None and found.retains_grad:
            found.grad = place(gradient if before is None else before(gradient))

    source.register_hook(pass_on)
    if goes_on:
        vars(copy)["source"] = source, place
    return copy


def as_sequence(features: Tensor) -> Tensor:
    """Return (B, N, D) of what a backbone answers: a sequence (B, N, D) as it is, maps (B, D, H, W) row by row."""
    return features.flatten(2).transpose(1, 2) if features.dim() == 4 else features


def kept_layers(
    features: Tensor, shape: tuple[int, ...], order_BN: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return the hidden states (B, N, D), in the order of the heads, of features (B, T, L, D) of an earlier run."""
    if features.shape != shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, but these tokens and the {shape[2]} layers that the heads "
            f"mix need {shape}: rows, tokens, layers, hidden size."
        )
    layers = features.to(dtype).unbind(dim=2)
    return layers if order_BN is None else tuple(gather_tokens(layer, order_BN) for layer in layers)


def features_of_earlier_run(
    features: Tensor, mask_BT: Tensor | None, config: SelfAttnConfig, dtype: torch.dtype, num_prefix_tokens: int = 0
) -> BackboneFeatures:
    """Return features (B, T, L, D) of an earlier run on images or sound in the order of the heads."""
    rows = right_padded_rows(features[:, :, 0, 0], mask_BT, None)
    shape = (*features.shape[:2], config.num_mixed_layers, config.hidden_size)
    layers = kept_layers(features, shape, rows.order_BN, dtype)
    return BackboneFeatures(layers, rows.lengths_B, rows.inverse_BT, layers, num_prefix_tokens=num_prefix_tokens)


def weights_hash(backbone: PreTrainedModel) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a backbone's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def backbone_source(name_or_path: str, hub_options: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return name and commit of a backbone on the hub, or neither for a folder, which others do not have."""
    if os.path.isdir(name_or_path):
        return None, None
    return name_or_path, extract_commit_hash(cached_file(name_or_path, "config.json", **hub_options), None)


def processor_options(
    name_or_path: str, hub_options: dict[str, Any], config: PreTrainedConfig, given: dict[str, Any]
) -> dict[str, Any]:
    """Return what the backbone's own tokenizer or feature extractor tells of its input, where it is not given."""
    frame = ("prefix_token_ids", "suffix_token_ids")
    if main_input_of(config) == "input_ids" and given.keys().isdisjoint(frame):
        return dict(zip(frame, backbone_frame(name_or_path, hub_options), strict=True))
    scale = ("spectrogram_mean", "spectrogram_std")
    if config.model_type == "audio-spectrogram-transformer" and given.keys().isdisjoint(scale):
        extractor = AutoFeatureExtractor.from_pretrained(name_or_path, **hub_options)
        return dict(zip(scale, (extractor.mean, extractor.std) if extractor.do_normalize else (0.0, 0.5), strict=True))
    return {}


def backbone_frame(name_or_path: str, hub_options: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the special tokens that the backbone's own tokenizer puts before and after one text."""
    mend = "Give prefix_token_ids and suffix_token_ids, the special tokens before and after a text ([] for none)."
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_options)
    except Exception as error:  # tokenizers raises its bare Exception
        raise ValueError(f"The tokenizer of the backbone {name_or_path!r} does not open ({error}). {mend}") from error
    # Where the tokenizer's files are missing, AutoTokenizer makes one that knows special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 2:
        raise ValueError(f"The backbone {name_or_path!r} has no tokenizer beside it. {mend}")
    frame = special_token_frame(tokenizer)
    if frame is None:
        raise ValueError(f"The special tokens of the tokenizer of {name_or_path!r} do not frame a text. {mend}")
    return frame


def special_token_frame(tokenizer: Any) -> tuple[list[int], list[int]] | None:
    """Return the special tokens that a tokenizer puts before and after one text, or None where they cannot be told."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(inner) + 1):
        if inner and framed[start : start + len(inner)] == inner:
            return framed[:start], framed[start + len(inner) :]
    return None
