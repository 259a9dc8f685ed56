"""Forms of sparse attention of one head, and how far they are from full attention; for the two studies of quality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig

from hf_selfattn import SelfAttnConfig
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead, head_masks
from hf_selfattn.training.first_pass import spherical_kmeans

GROUP_DIM = 16


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Return attention (N, E) by plain products.

    Args:
        query: (N, E).
        key: (M, E).
        value: (M, E).
        bias: (N, M) added to the logits.
    """
    return (query @ key.T * query.shape[1] ** -0.5 + bias).softmax(dim=-1) @ value


def perplexity(query: Tensor, key: Tensor) -> float:
    """Return the geometric mean of the perplexities of the rows of full attention.

    Args:
        query: (N, E).
        key: (N, E).
    """
    logs = (query @ key.T * query.shape[1] ** -0.5).log_softmax(dim=-1)
    return float((-(logs.exp() * logs).sum(dim=-1)).mean().exp())


def random_prototypes(num_groups: int, seed: int) -> Tensor:
    """Return unit vectors, (G, 16)."""
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_groups, GROUP_DIM, generator=random), dim=-1)


def kmeans_prototypes(metric: Tensor, num_groups: int, seed: int) -> Tensor:
    """Return what the package's first pass finds among other tokens, (G, 16).

    Args:
        metric: (N, 16) unit vectors of other tokens than those of the study.
    """
    return spherical_kmeans(metric, num_groups, torch.Generator().manual_seed(seed))


def grouped(
    query: Tensor, key: Tensor, value: Tensor, metric: Tensor, prototypes: Tensor, **options: int | str
) -> Tensor:
    """Return the output (N, E) of the package's layer, its projections the identity.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
        metric: (N, 16).
        prototypes: (G, 16).
    """
    E = query.shape[1]
    backbone = BertConfig(hidden_size=3 * E + 2 * GROUP_DIM, num_attention_heads=1)
    sizes = {"head_dim": E, "num_groups": len(prototypes)}
    config = SelfAttnConfig(backbone_config=backbone, num_grouped_attention_heads=1, **sizes, **options)
    config._attn_implementation = "sdpa"
    head = GroupedAttentionHead(config)
    value = F.pad(value, (0, head.value_dim - E))
    features = torch.cat([query, key, value, metric], dim=-1)
    features = F.pad(features, (0, backbone.hidden_size - features.shape[1]))
    with torch.no_grad():
        for linear in (head.qkv, head.output):
            torch.nn.init.eye_(linear.weight)
            linear.bias.zero_()
        head.metric.weight.zero_()
        start = 2 * E + head.value_dim
        head.metric.weight[:, start : start + GROUP_DIM] = torch.eye(GROUP_DIM)
        head.metric_scale.zero_()
        head.prototypes.copy_(prototypes)
        output: Tensor = head(features[None], head_masks(config, features[None], None))[0]
    return output[0, :, :E]


def grouped_cost(num_tokens: int, head_dim: int, block_size: int = 64) -> int:
    """Return the multiplications of the grouped layer for one token in one head, without its projections."""
    width = head_dim + GROUP_DIM
    num_keys = block_size + num_tokens // block_size
    return num_keys * 2 * width + 2 * width * (2 * width - 1)


def near_and_far(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: Tensor,
    top_blocks: int = 0,
    far: bool = True,
) -> Tensor:
    """Return attention to the own block, to the best others of each block, and to the means of the rest.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
        block: of each token, (N,).
        top_blocks: how many other blocks are read in full, chosen by mean query and mean key.
    """
    K = int(block.max()) + 1
    one_hot = F.one_hot(block, K).to(key.dtype)
    counts = one_hot.sum(dim=0)
    mean_query, mean_key, mean_value = (one_hot.T @ x / counts[:, None] for x in (query, key, value))
    score = (mean_query @ mean_key.T).fill_diagonal_(float("inf"))
    opened = torch.zeros(K, K, dtype=torch.bool).scatter_(1, score.topk(1 + top_blocks).indices, True)
    lowest = torch.finfo(key.dtype).min
    near = torch.where(opened[block][:, block], 0.0, lowest)
    if not far:
        return attend(query, key, value, near)
    summaries = torch.where(opened, lowest, counts.log())[block]
    keys, values = torch.cat([key, mean_key]), torch.cat([value, mean_value])
    return attend(query, keys, values, torch.cat([near, summaries], dim=1))


def window(query: Tensor, key: Tensor, value: Tensor, width: int) -> Tensor:
    """Return attention to the nearest tokens.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
    """
    place = torch.arange(len(key))
    outside = (place[:, None] - place).abs() > width // 2
    return attend(query, key, value, outside * torch.finfo(key.dtype).min)


def nystrom(query: Tensor, key: Tensor, value: Tensor, landmarks: int) -> Tensor:
    """Return Nystrom attention with means of segments (Xiong et al., 2021) and an exact pseudo-inverse.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
    """
    query_means, key_means = (x.unflatten(0, (landmarks, -1)).mean(dim=1) for x in (query, key))
    identity = torch.eye(landmarks)
    inner = attend(query_means, key_means, identity)
    return attend(query, key_means, identity) @ (torch.linalg.pinv(inner) @ attend(query_means, key, value))


def oracle(query: Tensor, key: Tensor, value: Tensor, num_keys: int) -> Tensor:
    """Return attention to the keys of each query's greatest logits.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
    """
    logits = query @ key.T
    least = logits.topk(num_keys).values[:, -1:]
    return attend(query, key, value, (logits < least) * torch.finfo(key.dtype).min)


def random_features(query: Tensor, key: Tensor, value: Tensor, num_features: int, seed: int) -> Tensor:
    """Return attention by positive orthogonal random features (Choromanski et al., 2021).

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
    """
    E = query.shape[1]
    random = torch.Generator().manual_seed(seed)
    blocks = [torch.linalg.qr(torch.randn(E, E, generator=random)).Q for _ in range(num_features // E)]
    lengths = torch.randn(num_features, E, generator=random).norm(dim=-1, keepdim=True)
    directions = torch.cat(blocks) * lengths
    query, key = query * E**-0.25, key * E**-0.25
    of_query, of_key = (x @ directions.T - x.square().sum(dim=-1, keepdim=True) / 2 for x in (query, key))
    of_query = (of_query - of_query.amax(dim=-1, keepdim=True)).exp() + 1e-4
    of_key = (of_key - of_key.amax()).exp() + 1e-4
    return of_query @ (of_key.T @ value) / (of_query @ of_key.sum(dim=0)[:, None])


def sorted_blocks(metric: Tensor, block_size: int, prototypes: Tensor) -> Tensor:
    """Return the block of each token, (N,), as the grouped form cuts them.

    Args:
        metric: (N, 16).
        prototypes: (G, 16).
    """
    order = (metric @ prototypes.T).argmax(dim=-1).argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)) // block_size)


def compare(
    query: Tensor, key: Tensor, value: Tensor, metric: Tensor, other_metric: Tensor, seed: int
) -> dict[str, tuple[int, float]]:
    """Return cost and relative error of each form; the cost is multiplications of a token in one head.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
        metric: (N, 16) unit vectors.
        other_metric: those of other tokens of the same kind, where k-means looks.
    """
    N, E = key.shape
    given = (query, key, value)
    first, random = kmeans_prototypes(other_metric, 64, seed), random_prototypes(64, seed)
    of_one_key = 2 * E
    own = sorted_blocks(metric, 256, first)
    best_two = sorted_blocks(metric, 64, first)

    def cost(**options: int) -> int:
        return grouped_cost(N, E, **options)

    forms = {
        "grouped": (cost(), grouped(*given, metric, first)),
        "grouped, blocks of 32": (cost(block_size=32), grouped(*given, metric, first, block_size=32)),
        "grouped, random prototypes": (cost(), grouped(*given, metric, random)),
        "own group only, 256": (256 * of_one_key, near_and_far(*given, own, far=False)),
        "best two blocks, means": (254 * of_one_key, near_and_far(*given, best_two, top_blocks=2)),
        **{f"window of {width}": (width * of_one_key, window(*given, width)) for width in (128, 256, 384)},
        **{f"nystrom, {m} landmarks": (2 * m * of_one_key + 24 * m**3 // N, nystrom(*given, m)) for m in (64, 128)},
        "random features, 128": (128 * 4 * E, random_features(*given, 128, seed)),
        "oracle, 128 best keys": (128 * of_one_key, oracle(*given, 128)),
    }
    exact = attend(*given)
    size = exact.norm()
    return {name: (cost, float((output - exact).norm() / size)) for name, (cost, output) in forms.items()}
