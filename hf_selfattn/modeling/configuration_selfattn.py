# Copyright 2026 The hf_selfattn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Configuration of the self-attention and grouped-attention heads on any encoder backbone."""

import difflib
import re
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import auto_docstring, logging

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_selfattn.SelfAttnConfig",
    "AutoModel": "modeling_selfattn.SelfAttnModel",
    "AutoModelForSequenceClassification": "modeling_selfattn.SelfAttnForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_selfattn.SelfAttnForTokenClassification",
}

IMAGE = "pixel_values"  # what a model on a backbone of images reads
IMAGE_AUTO_MAP = {
    "AutoConfig": "configuration_selfattn.SelfAttnConfig",
    "AutoModel": "image_selfattn.SelfAttnImageModel",
    "AutoModelForImageClassification": "image_selfattn.SelfAttnForImageClassification",
}
# What a checkpoint of this kind has beside those: other checkpoints do not carry the file.
OBJECT_DETECTION = {"AutoModelForObjectDetection": "detection_selfattn.SelfAttnForObjectDetection"}

SOUND = "input_values"  # what a model on a backbone of sound reads
SOUND_AUTO_MAP = {
    "AutoConfig": "configuration_selfattn.SelfAttnConfig",
    "AutoModel": "audio_selfattn.SelfAttnAudioModel",
    "AutoModelForAudioClassification": "audio_selfattn.SelfAttnForAudioClassification",
    "AutoModelForCTC": "audio_selfattn.SelfAttnForCTC",
}

# Position embeddings of these families start at `pad_token_id + 1`, so that many rows of the table are never used.
OFFSET_POSITION_FAMILIES = tuple(
    ("camembert data2vec-text longformer mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod").split()
)

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # the form of one

# Fields that earned their place in no experiment (benchmarks/LOG.md), each with what there is instead.
GONE = {
    "codebook": "prototypes are random until a first pass over data puts them where k-means says; leave it out",
    "far_field": "the far field is linear; leave it out",
    "group_order": "the tokens of a group are sorted by similarity; leave it out",
    "group_temperature": "group probabilities are reported at temperature 0.1; leave it out",
    "metric_code": "tokens are compared by their own vectors; leave it out",
    "norm_position": "the input of the heads is normalised; leave it out",
    "num_sortings": "tokens are sorted once; for a wider near field take a larger block_size",
    "selected_blocks": "other blocks are read by their means; for a wider near field take a larger block_size",
    "subsequence_keep_rate": "every window is read; to train on excerpts of texts take the recipes' sample_tokens",
    "token_keep_rate": "every token is read; to train on excerpts of texts take the recipes' sample_tokens",
}

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")  # of the backbone, to be set here
VOCABULARY = ("vocab_size", "pad_token_id")  # which a recogniser of speech has of its own
# By which weights of a backbone would receive no gradient, always or at some steps: poolers, LayerDrop.
OFF = {"do_pooling": False, "vision_use_head": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}

# Keys that `PreTrainedConfig` takes without declaring them as fields; `use_cache` is written by `Trainer`.
INHERITED_KEYS = frozenset(
    (
        "attn_implementation experts_implementation model_type name_or_path num_labels output_attentions "
        "per_layer_config transformers_weights quantization_config torch_dtype use_cache"
    ).split()
)


def backbone_window(backbone_config: PreTrainedConfig) -> int | None:
    """Return the longest input of a backbone in tokens, special tokens included, or None where it has no limit."""
    positions = getattr(backbone_config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - first_position(backbone_config)


def main_input_of(backbone_config: PreTrainedConfig) -> str:
    """Return what a model on a backbone reads: `input_ids`, `pixel_values`, or `input_values`, which is sound."""
    if type(backbone_config) in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        return SOUND
    if hasattr(backbone_config, "vocab_size") or type(backbone_config) not in MODEL_MAPPING:
        return "input_ids"
    return MODEL_MAPPING[type(backbone_config)].main_input_name


def image_size(backbone_config: PreTrainedConfig) -> int:
    """Return the side in pixels of the images that a backbone was trained on, 224 where it does not say."""
    of_timm = getattr(backbone_config, "pretrained_cfg", None) or {}
    size = getattr(backbone_config, "image_size", None) or of_timm.get("input_size", 224)
    return size if isinstance(size, int) else max(size[-2:])


def first_position(backbone_config: PreTrainedConfig) -> int:
    """Return the position of a row's first token."""
    return (backbone_config.pad_token_id or 0) + 1 if backbone_config.model_type in OFFSET_POSITION_FAMILIES else 0


@auto_docstring(
    custom_intro="""
    Configuration of a backbone with self-attention and grouped-attention heads. Lengths are in tokens, those of tiles
    of images in pixels, those of sound in samples. Every field is written to `config.json`. A `ValueError` is raised
    for an unknown key and for a value outside its range.
    """
)
@strict
class SelfAttnConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or [`PreTrainedConfig`], *optional*):
        Configuration of any encoder that `AutoModel` builds. BERT with its defaults where it is not given.
    num_self_attention_heads (`int`, *optional*, defaults to 4):
        Heads of the self-attention inside a subsequence. 0 turns it off.
    num_grouped_attention_heads (`int`, *optional*, defaults to 4):
        Heads of the grouped attention across the whole input. 0 turns it off.
    num_head_layers (`int`, *optional*, defaults to 1):
        Number of stacked pairs of the two attentions.
    head_dim (`int`, *optional*, defaults to 32):
        Width of one attention head, for queries and keys.
    num_groups (`int`, *optional*, defaults to 64):
        Number of prototypes, and so of similarity groups, in each grouped-attention head.
    group_dim (`int`, *optional*, defaults to 16):
        Width of the learned similarity space.
    block_size (`int`, *optional*, defaults to 64):
        Tokens of one sorted block: the near field of the grouped attention.
    subsequence_length (`int`, *optional*):
        Window in which the backbone reads a longer input, special tokens included, or the side of a tile of an image
        in pixels, or a window of sound in samples. The backbone's own where it is not given, or 20 seconds of sound.
    subsequence_stride (`int`, *optional*):
        Tokens that neighbouring windows share, as the `stride` of a tokenizer, or pixels that neighbouring tiles
        or samples that neighbouring windows of sound share at least. An eighth of the window where it is not given.
    tiles (`bool`, *optional*, defaults to `False`):
        Whether an image is read in overlapping tiles of `subsequence_length` pixels a side, as a text is in windows,
        so that a large one need not be shrunk; the grouped attention reads across all tiles.
    mirrored (`"none"`, `"sides"` or `"both"`, *optional*, defaults to `"none"`):
        Whether an image is read mirrored, too, left and right or `both` ways, in two or four passes of the backbone:
        the heads read the mean of all, each place turned back to where it stands in the image.
    attention_window (`int`, *optional*, defaults to 512):
        Tokens over which the self-attention head looks: the features are cut into pieces of this length.
    convolution_width (`int`, *optional*, defaults to 0):
        Tokens of a convolution before the two attentions (Conformer), which knows their order. 0 turns it off.
    spec_augment (`bool`, *optional*, defaults to `False`):
        Whether training masks spans of tokens and of channels of the features (SpecAugment), others at every step.
    prefix_token_ids (`list[int]`, *optional*):
        Special tokens that the tokenizer puts before a text; they open every window.
    suffix_token_ids (`list[int]`, *optional*):
        Special tokens that the tokenizer puts after a text; they close every window.
    num_mixed_layers (`int`, *optional*, defaults to 1):
        Number of the backbone's last hidden layers (of a convolutional network, stages) that are mixed, with learned
        weights that start equal. 1 takes the last layer.
    layer_widths (`list[int]`, *optional*):
        Written by the class itself for a backbone that reads images: the widths of the layers that are mixed.
    inputs_to_logits_ratio (`int`, *optional*):
        Written by the class itself for a backbone that reads sound: samples from one frame to the next.
    spectrogram_mean (`float`, *optional*, defaults to -4.2677393):
        Mean of AST's spectrograms, that of AudioSet where nothing else is known.
    spectrogram_std (`float`, *optional*, defaults to 4.5689974):
        Their standard deviation.
    fusion (`"scalar"` or `"fixed"`, *optional*, defaults to `"scalar"`):
        The weights of the two attentions in the output: one learned number each, or `fusion_init` for ever.
    fusion_init (`float`, *optional*, defaults to 0.0):
        First value of the fusion weights. With 0 training starts from a plain head on the backbone, and the attentions
        come in as they help (ReZero; Bachlechner et al., 2020).
    norm_type (`"layernorm"` or `"rmsnorm"`, *optional*, defaults to `"layernorm"`):
        Normalisation of what each head reads.
    pooling (`"class_query"`, `"mean"` or `"cls"`, *optional*, defaults to `"class_query"`):
        How a sequence classifier reads the sequence: one learned query per class and one for all of them, the
        mean of the tokens, or the first token.
    head_dropout (`float`, *optional*, defaults to 0.0):
        Dropout on the output of each attention head.
    classifier_dropout (`float`, *optional*, defaults to 0.1):
        Dropout before the task head.
    temperature (`float`, *optional*, defaults to 1.0):
        Divides the logits of a sequence classifier, so that its probabilities are calibrated (Guo et al., 2017).
    thresholds (`list[float]`, *optional*):
        Least probability at which a multi-label classifier predicts each label. 0.5 where it is not given.
    top_one_if_none (`bool`, *optional*, defaults to `True`):
        Whether a multi-label classifier predicts the most probable label where none reaches its threshold.
    decoding (`"argmax"`, `"viterbi"` or `"crf"`, *optional*, defaults to `"viterbi"`):
        How a token classifier answers: each token for itself, the best legal sequence of tags (for labels that are
        IOB2 or BIOES tags; for others all is legal), or a linear-chain CRF, which is trained.
    word_pooling (`"first"` or `"mean"`, *optional*, defaults to `"mean"`):
        How a token classifier makes one feature of a word's tokens: the first one's, or the mean of all.
    text_pairs (`bool`, *optional*):
        Whether the model was trained on pairs of texts (`True`), on single ones (`False`), or nobody knows.
    num_proposals (`int`, *optional*, defaults to 100):
        Regions of an image that an object detector reads, at most.
    backbone_name_or_path (`str`, *optional*):
        Name on the hub of the backbone that the model was made of. A folder is never written down; `from_pretrained`
        takes one under this name for a checkpoint that holds no backbone.
    backbone_revision (`str`, *optional*):
        Commit of that backbone.
    backbone_hash (`str`, *optional*):
        SHA-256 of the backbone's weights before training.
    backbone_quantization (`"none"`, `"int8"` or `"nf4"`, *optional*, defaults to `"none"`):
        How the backbone's linear layers keep their weights (package bitsandbytes): in 8 bits (Dettmers et al., 2022)
        or in 4 bits, as in QLoRA (Dettmers et al., 2023). They do not train; the heads and an adapter do.
    adapter_subfolder (`str`, *optional*):
        Folder inside the checkpoint with an adapter of PEFT, where the checkpoint holds no backbone.
    auto_map (`dict`, *optional*):
        Written by the class itself: where the code that travels with a checkpoint defines its classes.
    """

    model_type = "selfattn"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: Any = None

    # Mirrored from the backbone: PEFT, Trainer and accelerate read them here.
    hidden_size: int = 0
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    vocab_size: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None  # `Trainer` writes this one and the next where the tokenizer has such a token
    eos_token_id: int | list[int] | None = None
    initializer_range: float | None = None

    num_self_attention_heads: int = 4
    num_grouped_attention_heads: int = 4
    num_head_layers: int = 1
    head_dim: int = 32
    num_groups: int = 64
    group_dim: int = 16
    block_size: int = 64
    subsequence_length: int | None = None
    subsequence_stride: int | None = None
    tiles: bool = False
    mirrored: Literal["none", "sides", "both"] = "none"
    attention_window: int = 512
    convolution_width: int = 0
    spec_augment: bool = False
    prefix_token_ids: list[int] = field(default_factory=list)
    suffix_token_ids: list[int] = field(default_factory=list)
    num_mixed_layers: int = 1
    layer_widths: list[int] | None = None
    inputs_to_logits_ratio: int | None = None
    spectrogram_mean: float = -4.2677393
    spectrogram_std: float = 4.5689974
    fusion: Literal["scalar", "fixed"] = "scalar"
    fusion_init: float | int = 0.0
    norm_type: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-6
    pooling: Literal["class_query", "mean", "cls"] = "class_query"
    head_dropout: float | int = 0.0
    classifier_dropout: float | int = 0.1
    temperature: float | int = 1.0
    thresholds: list[float] | None = None
    top_one_if_none: bool = True
    decoding: Literal["argmax", "viterbi", "crf"] = "viterbi"
    word_pooling: Literal["first", "mean"] = "mean"
    text_pairs: bool | None = None
    num_proposals: int = 100
    backbone_name_or_path: str | None = None
    backbone_revision: str | None = None
    backbone_hash: str | None = None
    backbone_quantization: Literal["none", "int8", "nf4"] = "none"
    adapter_subfolder: str | None = None
    auto_map: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown_keys(type(self), kwargs)
        sizes = {name: getattr(self, name) for name in SIZES}
        self.backbone_config = build_backbone_config(self.backbone_config)
        for name, off in OFF.items():
            if getattr(self.backbone_config, name, False):
                setattr(self.backbone_config, name, off)
        for name, value in sizes.items():
            setattr(self, name, value)
        super().__post_init__(**kwargs)
        maps = {IMAGE: IMAGE_AUTO_MAP, SOUND: SOUND_AUTO_MAP}
        detects = self.main_input == IMAGE and not OBJECT_DETECTION.keys().isdisjoint(self.auto_map or ())
        self.auto_map = maps.get(self.main_input, AUTO_MAP) | (OBJECT_DETECTION if detects else {})
        self._mirror_backbone()
        self._check_windows()
        self._check_heads()
        self._check_answers()
        self._check_places()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        backbone = self.__dict__.get("backbone_config")
        if name in SIZES and value and isinstance(backbone, PreTrainedConfig):
            if getattr(backbone, name, value) != value and not (name == "vocab_size" and self.main_input == SOUND):
                setattr(backbone, name, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Open a configuration: what a later version wrote is kept, and options reach the backbone that has them."""
        known = known_fields(cls) | set(GONE)
        unknown = {name: value for name, value in config_dict.items() if name not in known}
        if unknown:
            logger.warning(f"{cls.__name__} does not know {sorted(unknown)}, which are kept as they are.")
        backbone = build_backbone_config(config_dict.get("backbone_config"))
        of_backbone = [name for name in SIZES if name not in VOCABULARY or main_input_of(backbone) != SOUND]
        passed = {name: value for name, value in config_dict.items() if name not in (*unknown, *of_backbone)}
        if other_labels(config_dict, kwargs):
            passed |= {"thresholds": None, "temperature": 1.0}
        passed["backbone_config"] = backbone
        for name in [name for name in kwargs if name not in known and hasattr(backbone, name)]:
            setattr(backbone, name, kwargs.pop(name))
        opened = super().from_dict(passed, **kwargs)
        for name, value in unknown.items():
            setattr(opened[0] if isinstance(opened, tuple) else opened, name, value)
        return opened

    @property
    def main_input(self) -> str:
        """What a model of this configuration reads: `input_ids`, `pixel_values` or `input_values`."""
        return main_input_of(self.backbone_config)

    def note_layers(self, widths: list[int]) -> None:
        """Note the widths of the layers that are mixed, the last of which is that of the heads."""
        if max(widths) > widths[-1]:
            raise ValueError(
                f"num_mixed_layers={self.num_mixed_layers} would mix layers of widths {widths}, some of them wider "
                "than the last one. Take fewer."
            )
        self.layer_widths = widths
        super().__setattr__("hidden_size", widths[-1])  # the backbone stays as it is

    def forget_calibration(self) -> None:
        """Take temperature and thresholds back: they were fitted for weights that training changes."""
        if self.temperature != 1 or self.thresholds is not None:
            logger.warning(
                f"Training starts: temperature={self.temperature} and thresholds={self.thresholds}, which belong to "
                "the weights before it, are set back to 1.0 and None."
            )
            self.temperature, self.thresholds = 1.0, None

    def _mirror_backbone(self) -> None:
        width = getattr(self.backbone_config, "hidden_size", None)
        if self.main_input == IMAGE:  # the model measures what is not declared
            declared = getattr(self.backbone_config, "hidden_sizes", None) or [0]  # of a convolutional network
            width = (self.layer_widths or [width or declared[-1]])[-1]
        if not isinstance(width, int):
            raise ValueError(
                f"The backbone {self.backbone_config.model_type!r} has no `hidden_size`, so no head can stand on its "
                "features. Take an encoder such as BERT, RoBERTa, MPNet, DeBERTa or ModernBERT."
            )
        self.hidden_size = width
        for name in ("num_hidden_layers", "num_attention_heads", "vocab_size", "pad_token_id"):
            if self.main_input == SOUND and name in VOCABULARY and getattr(self, name) is not None:
                continue  # of a recogniser's own tokenizer
            value = getattr(self.backbone_config, name, None)
            setattr(self, name, value if isinstance(value, int) else None)  # some have one for each stage
        for name in ("bos_token_id", "eos_token_id"):
            if getattr(self, name) is None and self.main_input != SOUND:
                setattr(self, name, getattr(self.backbone_config, name, None))
        self.initializer_range = getattr(self.backbone_config, "initializer_range", None) or 0.02

    def _check_windows(self) -> None:
        if self.main_input == SOUND:  # the model does, which knows the backbone's frames
            return
        window = None if self.main_input == IMAGE else backbone_window(self.backbone_config)
        if self.subsequence_length is None:
            self.subsequence_length = image_size(self.backbone_config) if self.main_input == IMAGE else window or 512
        if window is not None and self.subsequence_length > window:
            raise ValueError(
                f"subsequence_length={self.subsequence_length} is longer than what the backbone can read ({window} "
                f"tokens). Take at most {window}."
            )
        if self.subsequence_stride is None:
            self.subsequence_stride = self.subsequence_length // 8
        num_special = len(self.prefix_token_ids) + len(self.suffix_token_ids)
        room = self.subsequence_length - num_special - self.subsequence_stride
        if self.subsequence_stride < 0 or room < 1:
            raise ValueError(
                f"subsequence_stride={self.subsequence_stride} leaves no step: a window has "
                f"subsequence_length={self.subsequence_length} tokens, {num_special} of them special. Take a stride "
                f"from 0 to {max(self.subsequence_length - num_special - 1, 0)}."
            )
        for name in ("prefix_token_ids", "suffix_token_ids"):
            for token_id in getattr(self, name):
                if not 0 <= token_id < (self.vocab_size or float("inf")):
                    raise ValueError(
                        f"{name} has {token_id}, but the backbone's ids are from 0 to below {self.vocab_size}. Take "
                        "the ids that the tokenizer puts around a text."
                    )

    def _check_heads(self) -> None:
        may_be_none = ("num_self_attention_heads", "num_grouped_attention_heads", "convolution_width")
        sizes = ("num_head_layers", "head_dim", "num_groups", "group_dim", "block_size", "attention_window")
        counts = ("num_mixed_layers", "num_proposals")
        least = dict.fromkeys(may_be_none, 0) | dict.fromkeys((*sizes, *counts), 1)
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} is too small: it must be at least {minimum}.")
        if self.head_dim % 8:
            near = max(8, round(self.head_dim / 8) * 8)
            raise ValueError(f"head_dim={self.head_dim} is not divisible by 8, as kernels need. Take {near}.")
        if self.main_input != IMAGE and self.num_mixed_layers > (self.num_hidden_layers or 1) + 1:
            raise ValueError(
                f"num_mixed_layers={self.num_mixed_layers} is more than the backbone has: {self.num_hidden_layers} "
                "hidden layers and the embeddings."
            )
        if self.tiles and self.main_input != IMAGE:
            raise ValueError("tiles=True is for images; longer texts are always read in windows. Leave it out.")
        if self.mirrored != "none" and self.main_input != IMAGE:
            raise ValueError(f"mirrored={self.mirrored!r} is for images. Leave it out.")
        if self.fusion == "fixed" and self.fusion_init == 0:
            raise ValueError(
                "fusion='fixed' with fusion_init=0 would never read the attention heads. Take another fusion_init, "
                "such as 0.1, or no heads: num_self_attention_heads=0, num_grouped_attention_heads=0."
            )
        for name in ("head_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")

    def _check_answers(self) -> None:
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(f"problem_type={self.problem_type!r} must be None or one of {', '.join(PROBLEM_TYPES)}.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0.")
        if self.thresholds is not None and len(self.thresholds) != self.num_labels:
            raise ValueError(
                f"thresholds has {len(self.thresholds)} numbers, but there are {self.num_labels} labels: one for each."
            )

    def _check_places(self) -> None:
        check_backbone_name(self.backbone_name_or_path)
        if self.adapter_subfolder is not None and not re.fullmatch(r"\w[\w-]*", self.adapter_subfolder):
            raise ValueError(
                f"adapter_subfolder={self.adapter_subfolder!r} is refused: it is the name of a folder inside the "
                "checkpoint, without slashes and dots."
            )


def build_backbone_config(backbone_config: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    """Return the backbone's configuration as an object of its own class."""
    if isinstance(backbone_config, PreTrainedConfig):
        return backbone_config
    options = backbone_config or {"model_type": "bert"}
    options = dict(options) if isinstance(options, dict) else {}
    model_type = options.pop("model_type", None)
    if model_type is None:
        raise ValueError(
            "backbone_config has no `model_type`, for example 'bert'. Take it from the backbone's config.json."
        )
    return AutoConfig.for_model(model_type, **options)


def check_backbone_name(name: str | None) -> None:
    """Raise an error for the name of a backbone that could be a path."""
    if name is not None and (not HUB_NAME.fullmatch(name) or ".." in name):
        raise ValueError(
            f"backbone_name_or_path={name!r} is refused: a checkpoint names its backbone by a name on the hub, such "
            "as 'owner/name', never by a path. Give the place of a folder to from_pretrained instead."
        )


def known_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """Return the keys that a configuration takes."""
    return {item.name for item in fields(config_class)} | INHERITED_KEYS


def other_labels(stored: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return whether a configuration is opened for other labels, or another kind of them, than it was stored with."""
    names = {int(number): name for number, name in (stored.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}).items()}
    wanted = asked.get("id2label")
    return (
        asked.get("num_labels", len(names)) != len(names)
        or (wanted is not None and {int(number): name for number, name in wanted.items()} != names)
        or asked.get("problem_type", stored.get("problem_type")) != stored.get("problem_type")
    )


def refuse_unknown_keys(config_class: type[PreTrainedConfig], options: dict[str, Any]) -> None:
    """Raise an error for the first key that no field of the configuration has."""
    known = known_fields(config_class)
    for key in options:
        if key in known or key.startswith("_"):
            continue
        if key in GONE:
            raise ValueError(f"{key} is gone from {config_class.__name__}: {GONE[key]}.")
        near = difflib.get_close_matches(key, sorted(known), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Valid keys: {', '.join(sorted(known))}."
        raise ValueError(f"{config_class.__name__} has no field {key!r}.{hint}")


__all__ = ["SelfAttnConfig"]
