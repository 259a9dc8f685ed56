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
"""Codebooks of group prototypes: where k-means puts them, how they follow the tokens, and a token's own code.

Shape suffixes: B rows, N tokens, H codebooks, G prototypes of a codebook, E similarity dimensions.
"""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

ITERATIONS = 10
DECAY = 0.99
# A prototype with less than this share of the tokens that it would have among equals is dead.
DEAD_SHARE = 0.05


def spherical_kmeans(vectors_NE: Tensor, num_groups: int, generator: torch.Generator) -> Tensor:
    """Return the unit vectors (G, E) that spherical k-means finds (Dhillon and Modha, 2001).

    The first ones are drawn as k-means++ does (Arthur and Vassilvitskii, 2007), far from one another. Where there are
    fewer distinct vectors than groups, the others are random.

    Args:
        vectors_NE: unit vectors.
        num_groups: G.
        generator: of the draws, on the CPU.
    """
    N = len(vectors_NE)
    chosen = [int(torch.randint(N, (), generator=generator))]
    distance_N = 1 - vectors_NE @ vectors_NE[chosen[0]]
    while len(chosen) < num_groups:
        weight_N = distance_N.clamp(min=0).where(distance_N > 1e-6, 0).double().cpu()
        if not weight_N.any():
            break
        chosen.append(int(torch.multinomial(weight_N, 1, generator=generator)))
        distance_N = torch.minimum(distance_N, 1 - vectors_NE @ vectors_NE[chosen[-1]])
    random_GE = torch.randn(num_groups - len(chosen), vectors_NE.shape[1], generator=generator)
    prototypes_GE = torch.cat([vectors_NE[chosen], F.normalize(random_GE, dim=-1).to(vectors_NE)])
    for _ in range(ITERATIONS):
        nearest_N = (vectors_NE @ prototypes_GE.T).argmax(dim=-1)
        sums_GE = torch.zeros_like(prototypes_GE).index_add(0, nearest_N, vectors_NE)
        is_empty_G1 = sums_GE.norm(dim=-1, keepdim=True) < 1e-6
        prototypes_GE = torch.where(is_empty_G1, prototypes_GE, F.normalize(sums_GE, dim=-1))
    return prototypes_GE


@torch.no_grad()
def follow_tokens(
    prototypes_HGE: Tensor, counts_HG: Tensor, metric_BNE: Tensor, groups_BHN: Tensor, is_real_BN: Tensor
) -> None:
    """Move each prototype towards the mean of its tokens, in place, by a moving average (van den Oord et al., 2017).

    A prototype that hardly any token has is put where a token lies that is least like its own prototype (dead codes:
    Dhariwal et al., 2020). Processes add up what their tokens say, so that all of them keep the same prototypes.

    Args:
        prototypes_HGE: unit vectors.
        counts_HG: moving average of the number of tokens of each prototype; 0 before the first call.
        metric_BNE: unit vectors of the tokens.
        groups_BHN: prototype of each token in each codebook.
        is_real_BN: whether a token is no padding.
    """
    H, G, E = prototypes_HGE.shape
    members_BHNG = F.one_hot(groups_BHN, G).to(prototypes_HGE.dtype) * is_real_BN[:, None, :, None]
    metric_BNE = metric_BNE.to(prototypes_HGE.dtype)
    new_counts_HG = members_BHNG.sum(dim=(0, 2))
    new_sums_HGE = torch.einsum("bhng,bne->hge", members_BHNG, metric_BNE)
    is_first = counts_HG.sum() == 0
    strange_HGE = strangest_tokens(prototypes_HGE, metric_BNE, groups_BHN, is_real_BN)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(new_counts_HG)
        dist.all_reduce(new_sums_HGE)
        dist.broadcast(strange_HGE, src=0)
    weight = torch.where(is_first, 1.0, 1 - DECAY)
    counts_HG.lerp_(new_counts_HG, weight)
    step_HG1 = (weight * new_counts_HG / counts_HG.clamp(min=1e-6)).clamp(max=1)[..., None]
    means_HGE = new_sums_HGE / new_counts_HG.clamp(min=1)[..., None]
    moved_HGE = F.normalize(torch.lerp(prototypes_HGE, means_HGE, step_HG1), dim=-1)
    equal_H1 = counts_HG.mean(dim=-1, keepdim=True)
    is_dead_HG = counts_HG < DEAD_SHARE * equal_H1
    counts_HG.copy_(torch.where(is_dead_HG, equal_H1, counts_HG))
    prototypes_HGE.copy_(torch.where(is_dead_HG[..., None], strange_HGE, moved_HGE))


def strangest_tokens(prototypes_HGE: Tensor, metric_BNE: Tensor, groups_BHN: Tensor, is_real_BN: Tensor) -> Tensor:
    """Return for each codebook the vectors of the G tokens that are least like their own prototype: (H, G, E).

    Args:
        prototypes_HGE: unit vectors.
        metric_BNE: unit vectors of the tokens.
        groups_BHN: prototype of each token in each codebook.
        is_real_BN: whether a token is no padding.
    """
    H, G, E = prototypes_HGE.shape
    own_BHNE = prototypes_HGE[torch.arange(H, device=groups_BHN.device)[:, None], groups_BHN]
    likeness_BHN = (own_BHNE * metric_BNE[:, None]).sum(dim=-1).where(is_real_BN[:, None], 2.0)
    likeness_HM = likeness_BHN.transpose(0, 1).flatten(1)
    places_HG = likeness_HM.argsort(dim=-1)[:, torch.arange(G, device=groups_BHN.device) % likeness_HM.shape[1]]
    return metric_BNE.flatten(0, 1)[places_HG].contiguous()


def hard_codes(metric_BNE: Tensor, prototypes_HGE: Tensor, groups_BHN: Tensor) -> Tensor:
    """Return each token's prototype in place of its own vector, (B, N, H, E); the gradient passes straight through.

    Vector quantisation with the straight-through estimator (Bengio et al., 2013; van den Oord et al., 2017).

    Args:
        metric_BNE: unit vectors of the tokens.
        prototypes_HGE: unit vectors of the groups.
        groups_BHN: group of each token in each head.
    """
    H = len(prototypes_HGE)
    codes_BNHE = prototypes_HGE.to(metric_BNE.dtype)[
        torch.arange(H, device=groups_BHN.device), groups_BHN.transpose(1, 2)
    ]
    own_BNHE = metric_BNE[:, :, None]
    return own_BNHE + (codes_BNHE - own_BNHE).detach()
