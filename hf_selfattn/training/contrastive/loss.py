"""The contrastive loss of a batch of rows, and the model that it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...modeling.heads_selfattn import mean_of_tokens

TEMPERATURE = 0.1  # as in Khosla et al. (2020)


def contrastive_loss(features_BD: Tensor, labels_B: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return how far the rows of a class are from one another, as against those of other classes.

    A row tells each row of its class from all others of the batch, by cosine similarity; a row alone in its class
    only stands among the others.
    """
    unit_BD = F.normalize(features_BD.float(), dim=-1)
    is_self_BB = torch.eye(len(unit_BD), dtype=torch.bool, device=unit_BD.device)
    logits_BB = (unit_BD @ unit_BD.T / temperature).masked_fill(is_self_BB, -torch.inf)
    log_share_BB = logits_BB - logits_BB.logsumexp(dim=1, keepdim=True)
    is_positive_BB = (labels_B[:, None] == labels_B) & ~is_self_BB
    count_B = is_positive_BB.sum(dim=1)
    sums_B = log_share_BB.where(is_positive_BB, 0).sum(dim=1)
    return -(sums_B / count_B.clamp(min=1)).sum() / (count_B > 0).sum().clamp(min=1)


class ContrastiveModel(nn.Module):
    """The backbone of a model, whose loss is the contrastive one on the means of its last layer's features."""

    accepts_loss_kwargs = False  # `Trainer` divides the loss by the accumulated steps itself

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        model.requires_grad_(False)
        model.base_model.backbone.requires_grad_(True)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Let the backbone compute activations anew in the backward pass, as `Trainer` asks the model to."""
        self.model.activation_checkpointing_enable(**options)

    def forward(self, labels: Tensor, **inputs: Any) -> dict[str, Tensor]:
        base = self.model.base_model
        found = base.backbone_features(**{name: inputs[name] for name in base.input_names if name in inputs})
        features_BND, mask_BN = found.layers[-1], None
        if found.lengths_B is not None:
            mask_BN = torch.arange(features_BND.shape[1], device=labels.device) < found.lengths_B[:, None]
        return {"loss": contrastive_loss(mean_of_tokens(features_BND, mask_BN), labels)}
