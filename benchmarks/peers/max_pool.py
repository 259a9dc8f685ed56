"""The honest small head: one multi-head attention from [CLS] to the tokens, of maxima over the last layers.

MaxPoolBERT, form Max_Seq + MHA (Behrendt, Wagner and Harmeling, 2025, arXiv:2505.15696), on any encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_selfattn import register_task
from hf_selfattn.data import ClassificationData

from .stock_classification import StockArguments, StockClassifier, tune_peer

NUM_LAYERS, NUM_HEADS, DROPOUT = 3, 4, 0.1


class MaxPoolConfig(PreTrainedConfig):
    """Configuration of `MaxPoolForSequenceClassification`: that of its backbone, and the labels."""

    model_type = "max-pool-peer"
    sub_configs = {"backbone_config": AutoConfig}
    backbone_config: Any = None
    hidden_size: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict):
            options = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(options.pop("model_type"), **options)
        if self.backbone_config is not None:
            self.hidden_size = self.backbone_config.hidden_size
        super().__post_init__(**kwargs)


class MaxPoolHead(nn.Module):
    """Reads the hidden states of the last layers."""

    def __init__(self, hidden_size: int, num_labels: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden_size, NUM_HEADS, dropout=DROPOUT, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_states: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
        """Return logits (B, C).

        Args:
            hidden_states: (B, T, D) of each of the last layers.
            attention_mask: (B, T), 0 at pads.
        """
        greatest_BTD = torch.stack(hidden_states).amax(0)
        pads_BT = ~attention_mask.bool()
        pooled_B1D, _ = self.attention(
            greatest_BTD[:, :1], greatest_BTD, greatest_BTD, key_padding_mask=pads_BT, need_weights=False
        )
        logits: Tensor = self.classifier(self.dropout(pooled_B1D[:, 0]))
        return logits


class MaxPoolForSequenceClassification(PreTrainedModel):
    """A backbone with a `MaxPoolHead`."""

    config_class = MaxPoolConfig
    base_model_prefix = "backbone"
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: MaxPoolConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config, add_pooling_layer=False)
        self.head = MaxPoolHead(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (B, C), and the loss where labels are given.

        Args:
            input_ids, attention_mask, token_type_ids: (B, T), as the backbone reads them.
            labels: (B,) classes or values.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, **types, output_hidden_states=True, return_dict=True
        )
        logits = self.head(outputs.hidden_states[-NUM_LAYERS:], attention_mask)
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        if self.config.problem_type == "regression":
            loss = nn.functional.mse_loss(logits[:, 0].float(), labels.float())
        else:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(MaxPoolConfig.model_type, MaxPoolConfig, exist_ok=True)
AutoModelForSequenceClassification.register(MaxPoolConfig, MaxPoolForSequenceClassification, exist_ok=True)


@dataclass
class MaxPoolArguments(StockArguments):
    """The arguments of the recipe for texts, for the small head."""

    task: ClassVar[str] = "max-pool"


@register_task
class MaxPoolClassifier(StockClassifier):
    """The small head on the backbone's weights."""

    name = "max-pool"

    def build_model(self, data: ClassificationData, backbone_config: PreTrainedConfig) -> Any:
        """Return the head on the backbone."""
        arguments = self.arguments
        backbone = AutoModel.from_pretrained(arguments.model, add_pooling_layer=False, **arguments.backbone)
        config = MaxPoolConfig(backbone_config=backbone.config, **self.label_options(data))
        model = MaxPoolForSequenceClassification(config)
        model.backbone = backbone
        return tune_peer(model, arguments, ["head"])
