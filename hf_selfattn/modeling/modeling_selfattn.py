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
"""SelfAttn models for texts: self-attention and grouped-attention heads on the features of any encoder backbone."""

from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, Cache
from transformers.utils import auto_docstring, can_return_tuple

from .adapter_selfattn import mask_of_tokens, past_length, past_of_rows, past_options
from .backbone_selfattn import (
    BackboneFeatures,
    copied,
    kept_layers,
    packed_inputs,
    padded_inputs,
    reads_packed_rows,
    unpacked,
)
from .base_selfattn import SelfAttnBaseModel, SelfAttnClassifier, SelfAttnMediaModel, SelfAttnPreTrainedModel
from .configuration_selfattn import SelfAttnConfig, first_position
from .decoding_selfattn import LinearChainCRF
from .outputs_selfattn import (
    CLASSES,
    FEATURES,
    NUM_ITEMS,
    PAST,
    WORDS,
    SelfAttnClassifierOutput,
    SelfAttnModelOutput,
    classified,
    loss_is_outside,
    mean_loss,
    without_features,
)
from .subsequences_selfattn import TokenRows, are_counted, merge, plan_windows, right_padded_rows, rows_of_windows
from .words_selfattn import TokenMarks, Words, decode_words, find_words, pool_words, token_marks

HiddenStates = tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]  # of the layers, and the attentions


@auto_docstring
class SelfAttnModel(SelfAttnBaseModel):
    input_names = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds", "features")

    def __new__(cls, config: SelfAttnConfig | None = None, **options: Any) -> Any:
        """Return a model that reads what the backbone reads, since `AutoModel` takes this class for all of them."""
        kinds = {kind.main_input_name: kind for kind in SelfAttnMediaModel.__subclasses__()}
        kind = None if config is None else kinds.get(config.main_input)
        return super().__new__(cls) if kind is None else kind(config, **options)

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.first_position = first_position(config.backbone_config)
        self.reads_token_types = "token_type_ids" in signature(self.backbone.forward).parameters

    @can_return_tuple
    @auto_docstring(custom_args=PAST + FEATURES)
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
        if are_counted(kwargs.get("position_ids"), attention_mask, self.first_position):
            del kwargs["position_ids"]
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= {"inputs_embeds": inputs_embeds, "features": features}
        return self.read_input(kwargs, **inputs, past_key_values=past_key_values)[0]

    def backbone_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        features: torch.Tensor | None = None,
        want: dict[str, Any] | None = None,
    ) -> BackboneFeatures:
        r"""
        Return what the heads read of an input. Nothing behind it knows whether that is a text, an image or a sound.

        Args:
            want (`dict`, *optional*):
                `output_attentions` and `output_hidden_states`: what the backbone returns besides. The rest is as in
                `forward`.
        """
        want = want or {"output_attentions": False, "output_hidden_states": False}
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        values = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        types = token_type_ids if self.reads_token_types else None
        rows = right_padded_rows(values, mask_of_tokens(attention_mask, values, past_key_values), types)
        if features is not None:
            shape = (*values.shape[:2], self.config.num_mixed_layers, self.config.hidden_size)
            layers = kept_layers(features, shape, rows.order_BN, self.heads.feature_mean.dtype)
            return BackboneFeatures(layers, rows.lengths_B, rows.inverse_BT, layers)
        fits = not torch.compiler.is_exporting() and rows.values.shape[1] <= self.window - past_length(past_key_values)
        read = self._read if fits else self._read_in_windows
        layers, attentions = read(rows, past_key_values, **want)
        mixed = layers[-self.config.num_mixed_layers :]
        return BackboneFeatures(mixed, rows.lengths_B, rows.inverse_BT, layers, attentions)

    def _read(
        self, rows: TokenRows, past: Cache | None, output_attentions: bool, output_hidden_states: bool | list[int]
    ) -> HiddenStates:
        """Run the backbone on rows that fit into its window; return attentions, and the last layer or all of them."""
        is_packed = past is None and reads_packed_rows(self.backbone, rows)
        inputs, places = packed_inputs(rows, self.first_position) if is_packed else (padded_inputs(rows), None)
        inputs |= {} if past is None else past_options(self.backbone, past, rows.mask_BN, rows.values)
        every_layer = bool(output_hidden_states) or self.config.num_mixed_layers > 1
        outputs = self.backbone(
            output_attentions=output_attentions, output_hidden_states=every_layer, return_dict=True, **inputs
        )
        layers = outputs.hidden_states if every_layer else (outputs.last_hidden_state,)
        return unpacked(tuple(layers), places, rows), outputs.attentions if output_attentions else None

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


@auto_docstring
class SelfAttnForSequenceClassification(SelfAttnClassifier):
    model_class = SelfAttnModel

    @can_return_tuple
    @auto_docstring(custom_args=CLASSES + NUM_ITEMS + PAST + FEATURES)
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
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds, past_key_values, features)
        outputs = self.model(*inputs, return_dict=True, **kwargs)
        attention_mask = mask_of_tokens(attention_mask, outputs.last_hidden_state, past_key_values)
        return classified(self, outputs, attention_mask, labels, num_items_in_batch)


@auto_docstring
class SelfAttnForTokenClassification(SelfAttnPreTrainedModel):
    label_smoothing = 0.0  # of the loss in training and evaluation

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
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
    @auto_docstring(custom_args=PAST + WORDS + NUM_ITEMS + FEATURES)
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
            loss = mean_loss(self.tag_losses(logits.float(), labels), labels, num_items_in_batch)
        if not (self.training or torch.compiler.is_exporting() or loss_is_outside(labels, num_items_in_batch)):
            logits = self.decode(logits, words)
        return SelfAttnClassifierOutput(loss=loss, logits=logits, **without_features(outputs))

    def tag_losses(self, logits_BTC: Tensor, labels_BT: Tensor) -> Tensor:
        """Return the losses of each row with a CRF, or of each token."""
        if self.crf is not None:
            return self.crf(logits_BTC, labels_BT, labels_BT != -100)
        scores, labels = logits_BTC.flatten(0, 1), labels_BT.flatten()
        return F.cross_entropy(scores, labels, reduction="none", label_smoothing=self.label_smoothing)

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
]
