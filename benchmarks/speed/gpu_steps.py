"""Training steps on a GPU: stock head, our heads, and heads of full attention on the same backbone, random weights.

A step is forward, backward and AdamW, weights in float32 and products in bfloat16, without dropout; the median of
several, in which the models take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from hf_selfattn import SelfAttnConfig, SelfAttnForSequenceClassification
from hf_selfattn.hub.summary import table

REPEATS, WARM_UP = 10, 3
LABELS = 8


def bert(num_layers: int) -> BertConfig:
    """Return the shape of MiniLM, without dropout."""
    return BertConfig(
        hidden_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=LABELS,
    )


def ours(num_layers: int, **options: Any) -> PreTrainedModel:
    """Return a model with our heads."""
    options = {"num_labels": LABELS, "classifier_dropout": 0.0, "fusion_init": 0.1, **options}
    return SelfAttnForSequenceClassification(SelfAttnConfig(backbone_config=bert(num_layers), **options))


# The first of each case is what the others are compared with.
CASES: dict[tuple[int, int], dict[str, Callable[[], PreTrainedModel]]] = {
    (32, 512): {
        "6 layers, stock head": lambda: BertForSequenceClassification(bert(6)),
        "6 layers, our heads": lambda: ours(6),
    },
    (8, 4096): {
        "12 layers, heads of full attention": lambda: ours(12, block_size=4096, attention_window=4096),
        "12 layers, our heads": lambda: ours(12),
        "12 layers, no heads": lambda: ours(12, num_self_attention_heads=0, num_grouped_attention_heads=0),
    },
}


def step_of(model: PreTrainedModel, rows: int, num_tokens: int) -> Callable[[], None]:
    """Return one step of training on random tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(1000, 30000, (rows, num_tokens))
    labels = torch.randint(LABELS, (rows,))
    mask = torch.ones_like(ids)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()

    return step


def milliseconds_of(step: Callable[[], None]) -> float:
    """Return the time from the start of one step to the end of its last kernel, launches included."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    started.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended))


def training_steps() -> list[dict[str, Any]]:
    """Return the time and the memory of the steps of all models, and print them."""
    found = []
    for (rows, num_tokens), models in CASES.items():
        steps = {name: step_of(build(), rows, num_tokens) for name, build in models.items()}
        memory, times = {}, {name: [] for name in steps}
        for name, step in steps.items():
            for _ in range(WARM_UP):
                step()
            torch.cuda.reset_peak_memory_stats()
            step()
            memory[name] = torch.cuda.max_memory_allocated() / 2**20
        for _ in range(REPEATS):
            for name, step in steps.items():
                times[name].append(milliseconds_of(step))
        medians = {name: statistics.median(values) / 1e3 for name, values in times.items()}
        first = next(iter(medians.values()))
        for name, seconds in medians.items():
            row = {"model": name, "rows": rows, "tokens": num_tokens, "seconds": seconds, "of_first": seconds / first}
            found.append({**row, "tokens_per_second": rows * num_tokens / seconds, "peak_mebibytes": memory[name]})
        del steps
        torch.cuda.empty_cache()
    cells = [["model", "rows x tokens", "ms", "of the first", "MiB"]]
    for row in found:
        figures = [f"{1e3 * row['seconds']:.1f}", f"{row['of_first']:.2f}", f"{row['peak_mebibytes']:.0f}"]
        cells.append([row["model"], f"{row['rows']} x {row['tokens']:,}", *figures])
    print(table(cells), flush=True)
    return found
