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
"""How a sequence classifier reads the features of a sequence: class queries, mean, or first token."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_selfattn import SelfAttnConfig


def mean_of_tokens(features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the mean of the real tokens, (B, D).

    Args:
        features_BND: features of the tokens.
        mask_BN: not 0 at real tokens, or None where no token is padding.
    """
    if mask_BN is None:
        return features_BND.mean(dim=1)
    is_real_BN1 = mask_BN.bool()[..., None]
    total_BD = features_BND.masked_fill(~is_real_BN1, 0).sum(dim=1)
    return total_BD / is_real_BN1.sum(dim=1).clamp(min=1).to(total_BD.dtype)


def first_token(features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the features of the first real token, (B, D).

    Args:
        features_BND: features of the tokens.
        mask_BN: not 0 at real tokens, or None where no token is padding.
    """
    if mask_BN is None:
        return features_BND[:, 0]
    first_B11 = mask_BN.bool().long().argmax(dim=1)[:, None, None]
    return features_BND.take_along_dim(first_B11, dim=1)[:, 0]


class PooledClassifier(nn.Module):
    """A linear classifier on the mean of the tokens or on the first token.

    Shape: (B, N, D) -> (B, C).
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        pool = {"cls": first_token, "mean": mean_of_tokens}[self.config.pooling]
        return self.linear(self.dropout(pool(features_BND, mask_BN)))


class ClassQueryClassifier(nn.Module):
    """Each class reads the sequence by a learned query of its own, and all of them by a generic one.

    A token has one vote for each class; the logit of a class is the mean of the votes under its own attention plus
    the mean of the generic votes under the generic attention. With all queries at 0, where they start, every mean is
    over all tokens and the classifier is a linear one on mean pooling. After class attention in image transformers
    (Touvron et al., 2021) and multi-head attention pooling.

    Shape: (B, N, D) -> (B, C).
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.query = nn.Parameter(torch.empty(config.num_labels + 1, config.hidden_size))
        self.vote = nn.Linear(config.hidden_size, config.num_labels)
        self.generic_vote = nn.Linear(config.hidden_size, config.num_labels, bias=False)

    def reset_weights(self) -> None:
        """Fill what the classifier holds itself, unless it was loaded."""
        init.zeros_(self.query)

    def forward(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        features_BND = self.dropout(features_BND)
        attention_BQN = F.linear(features_BND, self.query).transpose(1, 2) * self.config.hidden_size**-0.5
        if mask_BN is not None:
            is_padding_B1N = ~mask_BN.bool()[:, None]
            attention_BQN = attention_BQN.masked_fill(is_padding_B1N, torch.finfo(attention_BQN.dtype).min)
        attention_BQN = F.softmax(attention_BQN, dim=-1, dtype=torch.float32).to(features_BND.dtype)
        own_BC = (attention_BQN[:, :-1] * self.vote(features_BND).transpose(1, 2)).sum(dim=-1)
        generic_BD = (attention_BQN[:, -1:] @ features_BND)[:, 0]
        return own_BC + self.generic_vote(generic_BD)


def build_sequence_classifier(config: SelfAttnConfig) -> nn.Module:
    """Return the classifier that the configuration's `pooling` names.

    Args:
        config: configuration of the model.
    """
    return ClassQueryClassifier(config) if config.pooling == "class_query" else PooledClassifier(config)
