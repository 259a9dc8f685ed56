# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""What all models share, whatever they read: how they open and are saved, the heads on a backbone, classification."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import auto_docstring

from .adapter_selfattn import (
    adapter_subfolder,
    carries_adapter,
    open_adapter_checkpoint,
    register_adapter_targets,
    save_adapter_checkpoint,
    share_configuration,
)
from .backbone_selfattn import (
    BackboneFeatures,
    attach_backbone,
    backbone_source,
    build_backbone,
    copied,
    features_of_earlier_run,
    open_backbone_config,
    processor_options,
    refuse_other_input,
    refuse_quantised,
)
from .configuration_selfattn import SelfAttnConfig, check_backbone_name, refuse_unknown_keys
from .heads_selfattn import SelfAttnHeads, build_sequence_classifier
from .outputs_selfattn import (
    SelfAttnClassifierOutput,
    SelfAttnModelOutput,
    classified,
    labels_of_scores,
    returns_weights,
    wanted_layers,
    wanted_outputs,
)


# Its `__init__` builds no module: the subclasses that do call `post_init`. trf-ignore: TRF013
@auto_docstring
class SelfAttnPreTrainedModel(PreTrainedModel):
    config: SelfAttnConfig
    base_model_prefix = "model"
    main_input_name: str = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SelfAttnLayer", "SelfAttnHeads"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True
    _supports_attention_backend = False
    adapted: tuple[Any, ...] = ()  # the `PeftModel` around this one, where an adapter checkpoint was opened

    def __init__(self, config: SelfAttnConfig, **options: Any):
        # What `from_pretrained` could not place in the configuration ends here.
        refuse_unknown_keys(type(config), options)
        if options:
            raise ValueError(f"Set {sorted(options)} in the configuration itself, which was given as an object.")
        refuse_other_input(type(self), config)
        super().__init__(config)
        register_adapter_targets()

    @property
    def is_gradient_checkpointing(self) -> bool:  # PEFT asks for it, and that of Transformers warns of its new name
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if hasattr(type(module), "reset_weights"):  # a part of the heads
            cast(Any, module).reset_weights()

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        *,
        dtype: torch.dtype | None = None,
        attn_implementation: str | dict[str, str] | None = None,
        hub_options: dict[str, Any] | None = None,
        backbone_options: dict[str, Any] | None = None,
        **head_options: Any,
    ) -> "SelfAttnPreTrainedModel":
        r"""
        Attach fresh heads to the pretrained weights of a backbone.

        Args:
            name_or_path (`str`):
                The backbone: a name on the hub or a folder.
            dtype (`torch.dtype`, *optional*):
                The type of all weights, the checkpoint's where it is not given.
            attn_implementation (`str` or `dict`, *optional*):
                As in `from_pretrained`; a dictionary can name `backbone_config` apart.
            hub_options (`dict`, *optional*):
                `revision`, `token`, `cache_dir`, `local_files_only` and the like, for every file that is loaded.
            backbone_options (`dict`, *optional*):
                Fields of the backbone's configuration to change, such as `attention_probs_dropout_prob`.
            head_options (`dict`, *optional*):
                Fields of [`SelfAttnConfig`], such as `num_groups`, `id2label` or `problem_type`.
        """
        hub_options = hub_options or {}
        backbone_config = open_backbone_config(name_or_path, hub_options, backbone_options or {}, cls.main_input_name)
        head_options |= processor_options(name_or_path, hub_options, backbone_config, head_options)
        config = SelfAttnConfig(
            backbone_config=backbone_config, attn_implementation=attn_implementation, **head_options
        )
        model = cls(config)
        config.backbone_hash = attach_backbone(model, name_or_path, hub_options)
        config.backbone_name_or_path, config.backbone_revision = backbone_source(name_or_path, hub_options)
        return model.to(dtype or model.base_model.backbone.dtype).eval()

    def read_input(self, kwargs: dict[str, Any], **inputs: Any) -> tuple[SelfAttnModelOutput, BackboneFeatures]:
        """Return what the heads make of an input, and its features; the options say what else the caller wants."""
        model: Any = self.base_model
        want = wanted_outputs(model, kwargs)
        found = model.backbone_features(**inputs, want=want)
        return model.outputs_of(found, want), found

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        if adapter_subfolder(cls.config_class, pretrained_model_name_or_path, config, kwargs):
            return open_adapter_checkpoint(cls, pretrained_model_name_or_path, config, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        check_backbone_name(self.config.backbone_name_or_path)
        if not carries_adapter(self):
            refuse_quantised(self.config)
            super().save_pretrained(save_directory, **kwargs)
        elif kwargs.get("push_to_hub"):
            raise ValueError("A model with its adapter is saved first, then sent: call model.push_to_hub(NAME).")
        else:
            save_adapter_checkpoint(self.adapted[0], save_directory)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        super().set_attn_implementation(*args, **kwargs)
        share_configuration(self)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.vocab_size = self.config.backbone_config.vocab_size = embeddings.num_embeddings
        self.config.backbone_hash = None  # no longer the backbone that was opened
        return embeddings


class SelfAttnBaseModel(SelfAttnPreTrainedModel):
    """What the models of texts, images and sound share: a backbone, and the heads on its features."""

    input_names: tuple[str, ...]  # what `backbone_features` reads of a batch
    backbone_features: Callable[..., BackboneFeatures]  # what the heads read of it

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.backbone = build_backbone(config.backbone_config)
        self.heads = SelfAttnHeads(config)
        self.post_init()

    @property
    def window(self) -> int:
        """The longest input that the backbone reads at once, in tokens, special tokens included."""
        return cast(int, self.config.subsequence_length)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    @property
    def bert(self) -> PreTrainedModel:
        """The backbone, by the name under which PEFT looks for layers to replicate."""
        return self.backbone

    def train(self, mode: bool = True) -> "SelfAttnBaseModel":
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()  # features that no training changes: dropout would only blur them
        return self

    def outputs_of(self, found: BackboneFeatures, want: dict[str, Any]) -> SelfAttnModelOutput:
        """Return what the heads make of features, in the order of the input."""
        record = bool(want["output_attentions"]) and returns_weights(self)
        heads = self.heads(found.layers, found.lengths_B, record)
        states = found.hidden_states if want["output_hidden_states"] else ()
        states = tuple(copied(layer, found.in_input_order) for layer in states)
        return SelfAttnModelOutput(
            last_hidden_state=found.in_input_order(heads.features),
            hidden_states=wanted_layers(states, want["output_hidden_states"]) if states else None,
            attentions=found.attentions,
            **heads.as_fields(found.inverse_BT) if record else {},
        )


class SelfAttnMediaModel(SelfAttnBaseModel):
    """What the models of images and of sound share. A row of a batch is read as it is alone."""

    num_prefix_tokens = 0  # how many stand before a map, such as CLS

    read_media: Callable[..., BackboneFeatures]  # of an input; `record` asks for the backbone's attentions, too

    def backbone_features(
        self,
        *inputs: torch.Tensor | None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        want: dict[str, Any] | None = None,
        **named: torch.Tensor | None,
    ) -> BackboneFeatures:
        if features is not None:
            dtype = self.heads.feature_mean.dtype
            return features_of_earlier_run(features, feature_mask, self.config, dtype, self.num_prefix_tokens)
        if not inputs and named.get(self.main_input_name) is None:
            raise ValueError(
                f"This backbone reads {self.main_input_name}, and none were given. {self.input_names} are read."
            )
        return self.read_media(*inputs, **named, record=bool((want or {}).get("output_attentions")))


class SelfAttnClassifier(SelfAttnPreTrainedModel):
    """What the classifiers of whole inputs share, be they texts, images or sound."""

    model_class: type[SelfAttnBaseModel]

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.num_labels = config.num_labels
        self.model = self.model_class(config)
        self.classifier = build_sequence_classifier(config)
        self.post_init()

    def classify(
        self, inputs: dict[str, Any], labels: Tensor | None, num_items: Tensor | int | None, kwargs: dict[str, Any]
    ) -> SelfAttnClassifierOutput:
        """Return loss and logits of an input, and what else the caller wants."""
        outputs, found = self.read_input(kwargs, **inputs)
        return classified(self, outputs, found.real_positions(), labels, num_items)

    @torch.no_grad()
    def predict_labels(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the labels of logits: class numbers, 0 and 1 (multi-label), or the numbers of a regression."""
        return labels_of_scores(self.config, logits)
