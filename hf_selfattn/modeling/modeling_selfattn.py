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
"""SelfAttn models: self-attention and grouped-attention heads on the features of any encoder backbone."""

from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, Cache, PreTrainedModel
from transformers.utils import auto_docstring, can_return_tuple

from .adapter_selfattn import adapter_subfolder, carries_adapter, open_adapter_checkpoint, save_adapter_checkpoint
from .attention_selfattn import GroupedAttentionHead
from .backbone_selfattn import (
    BackboneFeatures,
    HiddenStates,
    as_sequence,
    attach_backbone,
    backbone_inputs,
    backbone_source,
    build_backbone,
    copied,
    kept_layers,
    open_backbone_config,
    processor_options,
    refuse_other_input,
    refuse_quantised,
    unpacked,
)
from .configuration_selfattn import SelfAttnConfig, check_backbone_name, first_position, refuse_unknown_keys
from .crf_selfattn import LinearChainCRF
from .heads_selfattn import ClassQueryClassifier, SelfAttnHeads, SelfAttnLayer, build_sequence_classifier
from .loss_selfattn import labels_of_scores, loss_is_outside, mean_loss, tag_losses
from .outputs_selfattn import (
    SelfAttnClassifierOutput,
    SelfAttnModelOutput,
    classified,
    returns_weights,
    wanted_layers,
    wanted_outputs,
    without_features,
)
from .peft_selfattn import (
    mask_of_tokens,
    past_length,
    past_of_rows,
    register_adapter_targets,
    share_configuration,
)
from .subsequences_selfattn import TokenRows, are_counted, merge, plan_windows, right_padded_rows, rows_of_windows
from .words_selfattn import TokenMarks, Words, decode_words, find_words, pool_words, token_marks

OWN_WEIGHTS = (GroupedAttentionHead, SelfAttnLayer, SelfAttnHeads, ClassQueryClassifier, LinearChainCRF, TokenMarks)


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
        super().__init__(config)
        register_adapter_targets()

    @property
    def is_gradient_checkpointing(self) -> bool:  # PEFT asks for it, and that of Transformers warns of its new name
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OWN_WEIGHTS):
            module.reset_weights()

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


@auto_docstring
class SelfAttnModel(SelfAttnPreTrainedModel):
    def __new__(cls, config: SelfAttnConfig | None = None, **options: Any) -> "SelfAttnModel":
        """Return a model of the subclass that reads what the backbone reads, as `pathlib.Path` does for its system."""
        kinds = {kind.main_input_name: kind for kind in reversed([cls, *cls.__subclasses__()])}
        return super().__new__(cls if config is None else kinds.get(config.main_input, cls))

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.backbone = build_backbone(config.backbone_config)
        self.heads = SelfAttnHeads(config)
        self.main_input_name = self.backbone.main_input_name
        self.first_position = first_position(config.backbone_config)
        self.reads_token_types = "token_type_ids" in signature(self.backbone.forward).parameters
        self.post_init()

    @property
    def window(self) -> int:
        """The longest input that the backbone reads at once, in tokens, special tokens included."""
        return cast(int, self.config.subsequence_length)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What `backbone_features` reads of a batch."""
        return (self.main_input_name, "attention_mask", "token_type_ids", "inputs_embeds", "features")

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    @property
    def bert(self) -> PreTrainedModel:
        """The backbone, by the name under which PEFT looks for layers to replicate."""
        return self.backbone

    def train(self, mode: bool = True) -> "SelfAttnModel":
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()  # features that no training changes: dropout would only blur them
        return self

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnModelOutput:
        r"""
        features (`torch.Tensor` of shape `(batch_size, sequence_length, num_mixed_layers, hidden_size)`, *optional*):
            The backbone's last hidden states of these tokens, as computed before: the backbone is not run, and
            `hidden_states` are these alone.
        """
        main_input = {name: kwargs.pop(name) for name in (self.main_input_name,) if name in kwargs}
        if are_counted(kwargs.get("position_ids"), attention_mask, self.first_position):
            del kwargs["position_ids"]
        want = wanted_outputs(self, kwargs)
        found = self.backbone_features(
            input_ids, attention_mask, token_type_ids, inputs_embeds, past_key_values, features, want, **main_input
        )
        return self.outputs_of(found, want)

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

    def backbone_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        features: torch.Tensor | None = None,
        want: dict[str, Any] | None = None,
        **main_input: torch.Tensor,
    ) -> BackboneFeatures:
        r"""
        Return what the heads read of an input. Nothing behind it knows whether that is a text, an image or a sound.

        Args:
            want (`dict`, *optional*):
                `output_attentions` and `output_hidden_states`: what the backbone returns besides.
            main_input (`torch.Tensor`, *optional*):
                What a backbone that reads no tokens reads, such as `pixel_values`; the rest is as in `forward`.
        """
        want = want or {"output_attentions": False, "output_hidden_states": False}
        if self.main_input_name != "input_ids":
            if main_input.keys() != {self.main_input_name}:
                raise ValueError(f"This backbone reads {self.main_input_name}, and {sorted(main_input)} were given.")
            return self._features(self._run_backbone(main_input, **want))
        if main_input or (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        values = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        types = token_type_ids if self.reads_token_types else None
        rows = right_padded_rows(values, mask_of_tokens(attention_mask, values, past_key_values), types)
        if features is not None:
            shape = (*values.shape[:2], self.config.num_mixed_layers, self.config.hidden_size)
            layers = kept_layers(features, shape, rows.order_BN, self.heads.feature_mean.dtype)
            return self._features((layers, None), rows)
        if not torch.compiler.is_exporting() and rows.values.shape[1] <= self.window - past_length(past_key_values):
            return self._features(self._read(rows, past_key_values, **want), rows)
        return self._features(self._read_in_windows(rows, past_key_values, **want), rows)

    def _features(self, states: HiddenStates, rows: TokenRows | None = None) -> BackboneFeatures:
        """Return the features of right-padded rows, or of an input without padding."""
        hidden_states, attentions = states
        layers = hidden_states[-self.config.num_mixed_layers :]
        lengths_B, inverse_BT = (None, None) if rows is None else (rows.lengths_B, rows.inverse_BT)
        return BackboneFeatures(layers, lengths_B, inverse_BT, hidden_states, attentions)

    def _run_backbone(
        self, inputs: dict[str, Any], output_attentions: bool, output_hidden_states: bool | list[int]
    ) -> HiddenStates:
        """Run the backbone; return its hidden states (only the last one where no more are needed) and attentions."""
        every_layer = bool(output_hidden_states) or self.config.num_mixed_layers > 1
        outputs = self.backbone(
            output_attentions=output_attentions, output_hidden_states=every_layer, return_dict=True, **inputs
        )
        hidden_states = outputs.hidden_states if every_layer else (outputs.last_hidden_state,)
        return tuple(map(as_sequence, hidden_states)), outputs.attentions if output_attentions else None

    def _read(self, rows: TokenRows, past: Cache | None, **want: Any) -> HiddenStates:
        """Run the backbone on rows that fit into its window, without padding between them where it can."""
        inputs, places = backbone_inputs(self.backbone, rows, past, self.first_position)
        return unpacked(self._run_backbone(inputs, **want), places, rows)

    def _read_in_windows(self, rows: TokenRows, past: Cache | None, **want: Any) -> HiddenStates:
        """Split right-padded rows into windows, run the backbone on them and merge its hidden states."""
        config, window = self.config, self.window - past_length(past)
        frame = config.prefix_token_ids, config.suffix_token_ids
        windows = plan_windows(rows.values, rows.lengths_B, window, cast(int, config.subsequence_stride), *frame)
        filled = rows_of_windows(rows, windows, config.pad_token_id or 0)
        B, S, _ = windows.mask_BSW.shape
        number = torch.arange(B * S, device=filled.values.device)
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling:  # a short row has fewer windows than a long one
            number = number[cast(Tensor, filled.mask_BN).any(dim=1)]
            filled = filled.select(number)
        hidden_states, attentions = self._read(filled, past_of_rows(past, number // S), **want)

        def merged(layer: Tensor) -> Tensor:
            if not is_compiling:
                layer = layer.new_zeros(B * S, *layer.shape[1:]).index_copy(0, number, layer)
            return merge(layer.unflatten(0, (B, S)), windows)

        return tuple(copied(layer, merged, goes_on=True) for layer in hidden_states), attentions


class SelfAttnClassifier(SelfAttnPreTrainedModel):
    """What the classifiers of whole inputs share, be they texts, images or sound."""

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        refuse_other_input(type(self), config)
        self.num_labels = config.num_labels
        self.model = SelfAttnModel(config)
        self.classifier = build_sequence_classifier(config)
        self.post_init()

    @torch.no_grad()
    def predict_labels(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the labels of logits: class numbers, 0 and 1 (multi-label), or the numbers of a regression."""
        return labels_of_scores(self.config, logits)


@auto_docstring
class SelfAttnForSequenceClassification(SelfAttnClassifier):
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnClassifierOutput:
        r"""
        labels (`torch.Tensor`, *optional*):
            `(batch_size,)` class numbers, `(batch_size, num_labels)` 0 and 1 for multi-label classification, or
            `(batch_size,)` numbers for regression.
        num_items_in_batch (`torch.Tensor` or `int`, *optional*):
            Number of labels that share one update, as `Trainer` counts them.
        features (`torch.Tensor` of shape `(batch_size, sequence_length, num_mixed_layers, hidden_size)`, *optional*):
            The backbone's last hidden states of these tokens, as computed before: the backbone is not run.
        """
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds, past_key_values, features)
        outputs = self.model(*inputs, return_dict=True, **kwargs)
        attention_mask = mask_of_tokens(attention_mask, outputs.last_hidden_state, past_key_values)
        return classified(self, outputs, attention_mask, labels, num_items_in_batch)


@auto_docstring
class SelfAttnForTokenClassification(SelfAttnPreTrainedModel):
    label_smoothing = 0.0  # of the loss in training and evaluation

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        refuse_other_input(type(self), config)
        self.num_labels = config.num_labels
        self.model = SelfAttnModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        # CODEPATH: checkpoints trained with decoding="crf" have the transitions; all others decode without weights.
        self.crf = LinearChainCRF(self.label_names) if config.decoding == "crf" else None
        num_tokens = cast(Any, self.model.get_input_embeddings()).num_embeddings
        self.marks = TokenMarks(num_tokens)
        self.post_init()

    @property
    def continues_word(self) -> torch.Tensor:
        """What is known of each id, of `token_marks`."""
        return self.marks.continues_word

    @property
    def label_names(self) -> list[str]:
        """The names of the labels in the order of their numbers."""
        return [self.config.id2label[number] for number in range(self.config.num_labels)]

    @classmethod
    def from_backbone(cls, name_or_path: str, **options: Any) -> "SelfAttnForTokenClassification":
        model = super().from_backbone(name_or_path, **options)
        if "prefix_token_ids" not in options and "suffix_token_ids" not in options:  # then there is a tokenizer
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **(options.get("hub_options") or {}))
            model.read_marks(tokenizer)
        return cast(SelfAttnForTokenClassification, model)

    def read_marks(self, tokenizer: Any) -> None:
        """Note which tokens go on with a word and which show nothing, as the tokenizer marks them."""
        marks = torch.tensor(token_marks(tokenizer), dtype=torch.uint8)[: len(self.continues_word)]
        self.marks.continues_word = F.pad(marks, (0, len(self.continues_word) - len(marks))).to(
            self.continues_word.device
        )

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        more = embeddings.num_embeddings - len(self.continues_word)
        self.marks.continues_word = F.pad(self.continues_word, (0, more))  # a new token begins a word
        return embeddings

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        word_starts: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnClassifierOutput:
        r"""
        word_starts (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            1 at the first token of each word, 0 elsewhere. Where it is not given, words begin at every token that the
            tokenizer does not mark as the continuation of one.
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Class numbers at the first token of each word; -100 where a token has no label.
        num_items_in_batch (`torch.Tensor` or `int`, *optional*):
            Number of labels that share one update, as `Trainer` counts them.
        features (`torch.Tensor` of shape `(batch_size, sequence_length, num_mixed_layers, hidden_size)`, *optional*):
            The backbone's last hidden states of these tokens, as computed before: the backbone is not run.

        In evaluation mode the logits are those of the answer: their argmax is the decoded label of each word, in the
        form that goes on (I-X for B-X) at its later tokens, and with `decoding="viterbi"` or `"crf"` they are
        logarithms of marginal probabilities over the legal sequences. In training mode, in an exported model, and with
        `num_items_in_batch` but no `labels` (the caller computes the loss), they are the scores before decoding.
        """
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds, past_key_values)
        outputs = self.model(*inputs, features=features, return_dict=True, **kwargs)
        values = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        words = self.words_of(values, mask_of_tokens(attention_mask, values, past_key_values), word_starts)
        logits = self.label_scores(outputs.last_hidden_state, words)
        loss = None
        if labels is not None:
            losses = tag_losses(logits.float(), labels, self.crf, self.label_smoothing)
            loss = mean_loss(losses, labels, num_items_in_batch)
        if not (self.training or torch.compiler.is_exporting() or loss_is_outside(labels, num_items_in_batch)):
            logits = self.decode(logits, words)
        return SelfAttnClassifierOutput(loss=loss, logits=logits, **without_features(outputs))

    def words_of(self, values: Tensor, attention_mask: Tensor | None, word_starts: Tensor | None) -> Words:
        """Return the words of tokens, which are ids (B, T) or embeddings (B, T, D)."""
        special = [*self.config.prefix_token_ids, *self.config.suffix_token_ids]
        if values.dim() == 3 and word_starts is not None:  # embeddings come framed
            real_BT = values.new_ones(values.shape[:2]) if attention_mask is None else attention_mask
            attention_mask = real_BT * (real_BT.flip(1).cumsum(1).flip(1) > len(self.config.suffix_token_ids))
        return find_words(values, attention_mask, special, self.continues_word, word_starts)

    def label_scores(self, features_BTD: Tensor, words: Words) -> Tensor:
        """Return the scores (B, T, C) of the labels before decoding, equal at all tokens of a word."""
        return self.classifier(self.dropout(pool_words(features_BTD, words, self.config.word_pooling)))

    def decode(self, scores_BTC: Tensor, words: Words) -> Tensor:
        """Return the logits (B, T, C) of the answer, of the scores before decoding."""
        return decode_words(scores_BTC, words, self.label_names, self.config.decoding, self.crf)


__all__ = [
    "SelfAttnForSequenceClassification",
    "SelfAttnForTokenClassification",
    "SelfAttnModel",
    "SelfAttnPreTrainedModel",
]
