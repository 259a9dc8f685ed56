"""How far sparse attention is from full attention: `python benchmarks/attention_quality.py`.

One head on 4,096 tokens of 64 topics; a topic holds on for 32 tokens in the mean. Keys and queries are their topic's
centre with noise, values a projection of the same. A factor on the queries sets the perplexity of full attention. The
error is the norm of the difference to full attention's output over the norm of that output. The cost is the number of
keys that a query meets. The grouped form is the package's own layer, with its similarity space a random projection of
the keys: nothing is trained. Variants that the package does not have are masks on full attention. Mean of the seeds.
A second table compares forms of the package in pairs, on the same prototypes, over more draws of them. Written to
`benchmarks/results/attention_quality.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from attention_layers import HEAD_DIM
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig

from hf_selfattn import SelfAttnConfig
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead, SelfAttnHeads
from hf_selfattn.report import table
from hf_selfattn.results import environment, write_json

TOKENS, TOPICS, RUN = 4096, 64, 32
GROUP_DIM, VALUE_DIM = 16, 48
PERPLEXITIES = (3000, 1450, 330, 67)
SEEDS = (0, 1, 2)
DRAWS = 8


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Return attention (N, E) by plain products.

    Args:
        query: (N, E).
        key: (M, E).
        value: (M, E).
        bias: (N, M) added to the logits.
    """
    return (query @ key.T * HEAD_DIM**-0.5 + bias).softmax(dim=-1) @ value


def perplexity(query: Tensor, key: Tensor) -> float:
    """Return the geometric mean of the perplexities of the rows of full attention.

    Args:
        query: (N, E).
        key: (N, E).
    """
    logs = (query @ key.T * HEAD_DIM**-0.5).log_softmax(dim=-1)
    return float((-(logs.exp() * logs).sum(dim=-1)).mean().exp())


def draw_tokens(wanted: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries, keys, values and similarity vectors, one row for each token.

    Args:
        wanted: perplexity of full attention.
        seed: of the random numbers.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    changes = torch.rand(TOKENS, generator=random) < 1 / RUN
    topic = torch.randint(TOPICS, (TOKENS,), generator=random)[changes.cumsum(0)]
    meaning = normal(TOPICS, HEAD_DIM)[topic] + 0.5 * normal(TOKENS, HEAD_DIM)
    key = meaning + 0.3 * normal(TOKENS, HEAD_DIM)
    query = meaning + 0.3 * normal(TOKENS, HEAD_DIM)
    value = meaning @ normal(HEAD_DIM, VALUE_DIM) + normal(TOKENS, VALUE_DIM)
    metric = F.normalize(key @ normal(HEAD_DIM, GROUP_DIM), dim=-1)
    low, high = 0.0, 20.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if perplexity(query[::16] * middle, key) > wanted else (low, middle)
    return query * low, key, value, metric


def draw_prototypes(num_groups: int, seed: int) -> Tensor:
    """Return unit vectors, (G, 16).

    Args:
        num_groups: G.
        seed: of the random numbers.
    """
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_groups, GROUP_DIM, generator=random), dim=-1)


def grouped(query: Tensor, key: Tensor, value: Tensor, metric: Tensor, block_size: int, *prototypes: Tensor) -> Tensor:
    """Return the output of the package's layer, its projections the identity.

    Args:
        query: (N, 32).
        key: (N, 32).
        value: (N, 48).
        metric: (N, 16).
        block_size: tokens of a block.
        prototypes: (G, 16) of each sorting, one or two.
    """
    features = torch.cat([query, key, value, metric], dim=-1)
    backbone = BertConfig(hidden_size=features.shape[1], num_attention_heads=1)
    sizes = {"block_size": block_size, "num_groups": len(prototypes[0]), "num_sortings": len(prototypes)}
    config = SelfAttnConfig(backbone_config=backbone, num_grouped_attention_heads=1, **sizes)
    config._attn_implementation = "sdpa"
    head = GroupedAttentionHead(config)
    with torch.no_grad():
        for linear in (head.qkv, head.output):
            torch.nn.init.eye_(linear.weight)
            linear.bias.zero_()
        head.metric.weight.copy_(torch.eye(features.shape[1])[-GROUP_DIM:])
        head.metric_scale.zero_()
        head.prototypes.copy_(torch.stack(prototypes))
        output: Tensor = head(features[None], SelfAttnHeads(config)._masks(features[None], None))[0]
    return output[0, :, :VALUE_DIM]


def sorted_blocks(metric: Tensor, block_size: int, prototypes: Tensor) -> Tensor:
    """Return the block of each token, (N,), as the grouped form cuts them.

    Args:
        metric: (N, 16).
        block_size: tokens of a block.
        prototypes: (G, 16).
    """
    order = (metric @ prototypes.T).argmax(dim=-1).argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)) // block_size)


def near_and_far(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: Tensor,
    top_blocks: int = 0,
    far: bool = True,
    spread: bool = False,
) -> Tensor:
    """Return attention to the own block, to the best others of each block, and to the means of the rest.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
        block: of each token, (N,).
        top_blocks: how many other blocks are read in full, chosen by mean query and mean key.
        far: whether the means are read.
        spread: whether a mean's logit gets the second cumulant of its block's logits, keys taken as uncorrelated.
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
    if spread:
        variance = one_hot.T @ key**2 / counts[:, None] - mean_key**2
        summaries = summaries + query**2 @ variance.T / (2 * HEAD_DIM)
    keys, values = torch.cat([key, mean_key]), torch.cat([value, mean_value])
    return attend(query, keys, values, torch.cat([near, summaries], dim=1))


def window(query: Tensor, key: Tensor, value: Tensor, width: int) -> Tensor:
    """Return attention to the nearest tokens.

    Args:
        query: (N, E).
        key: (N, E).
        value: (N, E).
        width: number of keys.
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
        landmarks: number of segments.
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
        num_keys: number of keys.
    """
    logits = query @ key.T
    least = logits.topk(num_keys).values[:, -1:]
    return attend(query, key, value, (logits < least) * torch.finfo(key.dtype).min)


def errors(wanted: float, seed: int) -> dict[str, tuple[int, float]]:
    """Return the cost and the relative error of each form.

    Args:
        wanted: perplexity of full attention.
        seed: of the random numbers.
    """
    torch.manual_seed(seed)
    query, key, value, metric = draw_tokens(wanted, seed)
    exact = attend(query, key, value)
    given = (query, key, value)
    first, second = draw_prototypes(16, seed), draw_prototypes(16, seed + 100)
    many = draw_prototypes(64, seed)
    cut = {size: sorted_blocks(metric, size, first) for size in (64, 128, 256)}
    finer = sorted_blocks(metric, 64, many)
    forms = {
        "grouped, blocks of 64": (128, grouped(*given, metric, 64, first)),
        "grouped, blocks of 128": (160, grouped(*given, metric, 128, first)),
        "grouped, blocks of 256": (272, grouped(*given, metric, 256, first)),
        "grouped, blocks of 64, 64 groups": (128, grouped(*given, metric, 64, many)),
        "grouped, blocks of 64, two sortings": (192, grouped(*given, metric, 64, first, second)),
        "grouped, blocks of 128, two sortings": (288, grouped(*given, metric, 128, first, second)),
        "blocks of 64, spread": (128, near_and_far(*given, cut[64], spread=True)),
        "blocks of 128, spread": (160, near_and_far(*given, cut[128], spread=True)),
        "blocks of 64, the best other one": (191, near_and_far(*given, cut[64], top_blocks=1)),
        "blocks of 64, the best two": (254, near_and_far(*given, cut[64], top_blocks=2)),
        "blocks of 64, 64 groups, the best two": (254, near_and_far(*given, finer, top_blocks=2)),
        "own group only, blocks of 256": (256, near_and_far(*given, cut[256], far=False)),
        "window of 128": (128, window(*given, 128)),
        "window of 256": (256, window(*given, 256)),
        "window of 384": (384, window(*given, 384)),
        "nystrom, 64 landmarks": (128, nystrom(*given, 64)),
        "nystrom, 128 landmarks": (256, nystrom(*given, 128)),
        "oracle, 128 best keys": (128, oracle(*given, 128)),
    }
    size = exact.norm()
    return {name: (cost, float((output - exact).norm() / size)) for name, (cost, output) in forms.items()}


def paired_errors(wanted: float, seed: int) -> dict[str, list[float]]:
    """Return the relative error of the package's own forms, one for each draw of prototypes, which all forms share.

    Args:
        wanted: perplexity of full attention.
        seed: of the tokens.
    """
    query, key, value, metric = draw_tokens(wanted, seed)
    exact = attend(query, key, value)
    found: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        first, second = (draw_prototypes(16, 1000 * (seed + 1) + 2 * draw + place) for place in (0, 1))
        forms = {
            "blocks of 64": (64, first),
            "blocks of 128": (128, first),
            "blocks of 64, two sortings": (64, first, second),
            "blocks of 128, two sortings": (128, first, second),
        }
        for name, (block_size, *prototypes) in forms.items():
            output = grouped(query, key, value, metric, block_size, *prototypes)
            found.setdefault(name, []).append(float((output - exact).norm() / exact.norm()))
    return found


def paired_rows(wanted: float, runs: list[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return the mean error of each form and its difference to blocks of 64, with the standard error of that.

    Args:
        wanted: perplexity of full attention.
        runs: of `paired_errors`, one for each seed.
    """
    rows = []
    for name in runs[0]:
        own, base = (torch.tensor([run[form] for run in runs]).flatten() for form in (name, "blocks of 64"))
        difference = own - base
        deviation = float(difference.std() / len(difference) ** 0.5)
        row = {"form": name, "perplexity": wanted, "error": float(own.mean()), "pairs": len(difference)}
        rows.append({**row, "difference": float(difference.mean()), "standard_error": deviation})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    seeds = SEEDS[:1] if quick else SEEDS
    found = {wanted: [errors(wanted, seed) for seed in seeds] for wanted in PERPLEXITIES}
    rows = [
        {
            "form": name,
            "keys": cost,
            "errors": {str(wanted): sum(run[name][1] for run in runs) / len(runs) for wanted, runs in found.items()},
        }
        for name, (cost, _) in found[PERPLEXITIES[0]][0].items()
    ]
    header = ["form", "keys", *(f"perplexity {wanted}" for wanted in PERPLEXITIES)]
    print(table([header, *([r["form"], str(r["keys"]), *(f"{e:.3f}" for e in r["errors"].values())] for r in rows)]))
    pairs = [row for wanted in PERPLEXITIES for row in paired_rows(wanted, [paired_errors(wanted, s) for s in seeds])]
    header = ["form", "perplexity", "error", "difference"]
    cells = [
        [
            row["form"],
            str(row["perplexity"]),
            f"{row['error']:.3f}",
            f"{row['difference']:+.3f} ± {row['standard_error']:.3f}",
        ]
        for row in pairs
    ]
    print(table([header, *cells]))
    if not quick:
        command = "python benchmarks/attention_quality.py"
        record = {"command": command, "seeds": seeds, "environment": environment(), "rows": rows, "pairs": pairs}
        write_json(Path(__file__).parent / "results" / "attention_quality.json", record)


if __name__ == "__main__":
    main()
