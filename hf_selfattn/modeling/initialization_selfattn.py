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
"""The weights that our own modules start with."""

from torch import nn, randn_like
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .attention_selfattn import GroupedAttentionHead
from .crf_selfattn import LinearChainCRF
from .heads_selfattn import SelfAttnHeads, SelfAttnLayer
from .pooling_selfattn import ClassQueryClassifier


def fill_weights(module: nn.Module, config: PreTrainedConfig) -> None:
    """Fill what one module holds itself, unless it was loaded; modules of PyTorch are left to Transformers.

    Args:
        module: of a model of this package.
        config: its configuration.
    """
    if isinstance(module, GroupedAttentionHead):
        init.ones_(module.metric_scale)
        init.copy_(module.prototypes, F.normalize(randn_like(module.prototypes), dim=-1))
    elif isinstance(module, SelfAttnLayer):
        init.constant_(module.fusion_weight, config.fusion_init)
    elif isinstance(module, SelfAttnHeads):
        init.zeros_(module.feature_mean)
        init.ones_(module.feature_scale)
        if module.layer_weight is not None:
            init.constant_(module.layer_weight, 1 / len(module.layer_weight))
            init.ones_(module.layer_scale)
    elif isinstance(module, ClassQueryClassifier):
        init.zeros_(module.query)
    elif isinstance(module, LinearChainCRF):
        module.reset(init.zeros_, init.copy_)
