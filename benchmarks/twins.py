"""Tagging whose answer is elsewhere in the document: `python benchmarks/twins.py`.

Documents of 2,048 made-up tokens, read by one layer of the heads (grouped attention alone) and a linear tagger.
In `twins` a document has 32 names, each of which stands in it twice, far apart; the class of a name is written at its
first place only, and is asked for at the second. In `clue` one token anywhere says how all tokens of one kind have
to be tagged in this document. Grouped attention, whose tokens meet less than 5 % of the keys, is compared with full
attention: the same layer with one block. Everything else is equal: steps, batches, learning rate, seeds. Accuracy on
256 new documents. Continues where it stopped; written to `benchmarks/results/twins.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from hf_selfattn import SelfAttnConfig
from hf_selfattn.modeling.attention_selfattn import SelfAttnHeads
from hf_selfattn.modeling.codebook_selfattn import spherical_kmeans
from hf_selfattn.report import table
from hf_selfattn.results import environment, read_json, write_json

RESULTS = Path(__file__).parent / "results" / "twins.json"
TOKENS, WIDTH, WORDS, NAMES, CLASSES, PAIRS = 2048, 64, 200, 400, 5, 32
STEPS, BATCH, RATE, TEST_BATCHES, SEEDS = 600, 2, 3e-3, 32, (0, 1, 2)
FORMS: dict[str, dict[str, Any]] = {
    "full": {"block_size": TOKENS},
    "grouped": {},
    "grouped, means only": {"far_field": "mean"},
    "grouped, random prototypes": {"codebook": "random"},
    "grouped, moving prototypes": {"codebook": "ema"},
    "grouped, hard codes": {"metric_code": "hard"},
    "grouped, 16 groups": {"num_groups": 16},
}


class Documents:
    """Draws documents of one task: features (B, N, D) of made-up words, and the tag of each token or -100.

    Args:
        task: `twins` or `clue`.
        seed: of the words' vectors and of the documents.
    """

    def __init__(self, task: str, seed: int):
        self.task, self.random = task, torch.Generator().manual_seed(seed)
        self.words, self.names, self.classes = (self.normal(n, WIDTH) for n in (WORDS, NAMES, CLASSES))
        self.asked, self.clue = self.normal(2, WIDTH)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return features and tags of one batch."""
        features = self.words[torch.randint(WORDS, (BATCH, TOKENS), generator=self.random)]
        tags = torch.full((BATCH, TOKENS), -100)
        for row in range(BATCH):
            place = torch.randperm(TOKENS, generator=self.random)[: 2 * PAIRS]
            label = torch.randint(CLASSES, (PAIRS,), generator=self.random)
            first, second = place.chunk(2)
            if self.task == "twins":
                name = self.names[torch.randperm(NAMES, generator=self.random)[:PAIRS]]
                features[row, first] = name + self.classes[label]
                features[row, second] = name
                tags[row, second] = label
            else:
                features[row, second] = self.asked + 0.3 * self.normal(PAIRS, WIDTH)
                features[row, first[0]] = self.clue + self.classes[label[0]]
                tags[row, second] = label[0]
        return features + 0.3 * self.normal(BATCH, TOKENS, WIDTH), tags


class Tagger(nn.Module):
    """One layer of the heads and a linear classifier.

    Args:
        options: fields of the configuration.
    """

    def __init__(self, **options: Any):
        super().__init__()
        backbone = BertConfig(hidden_size=WIDTH, num_attention_heads=4)
        sizes = {"num_self_attention_heads": 0, "head_dim": 16, "fusion_init": 1.0, "block_size": 48}
        config = SelfAttnConfig(backbone_config=backbone, **{**sizes, **options})
        config._attn_implementation = "sdpa"
        self.heads, self.classifier = SelfAttnHeads(config), nn.Linear(WIDTH, CLASSES)
        layer = self.heads.layers[0]
        nn.init.ones_(layer.fusion_weight)
        head = layer.grouped_attention
        head.prototypes.copy_(F.normalize(torch.randn_like(head.prototypes), dim=-1))

    def fit_codebooks(self, features: Tensor, seed: int) -> None:
        """Put the prototypes where k-means finds them, as `fit_codebooks` does for a model.

        Args:
            features: (B, N, D) of some documents.
            seed: of the draws.
        """
        layer = self.heads.layers[0]
        head = layer.grouped_attention
        with torch.no_grad():
            metric = head.unit_metric(layer.grouped_norm(features)).flatten(0, 1)
            random = torch.Generator().manual_seed(seed)
            found = [spherical_kmeans(metric, head.config.num_groups, random) for _ in head.prototypes]
        head.prototypes.copy_(torch.stack(found))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.heads((features,)).features)
        return logits


def accuracy_of(model: Tagger, documents: Documents) -> float:
    """Return the share of right tags on new documents.

    Args:
        model: after training.
        documents: draws them.
    """
    right = total = 0
    with torch.no_grad():
        for _ in range(TEST_BATCHES):
            features, tags = documents.draw()
            is_asked = tags != -100
            right += int((model(features).argmax(dim=-1) == tags)[is_asked].sum())
            total += int(is_asked.sum())
    return right / total


def train(task: str, seed: int, options: dict[str, Any], steps: int) -> dict[str, float]:
    """Return accuracy and CPU seconds of one training.

    Args:
        task: `twins` or `clue`.
        seed: of weights and documents.
        options: fields of the configuration.
        steps: of training.
    """
    torch.manual_seed(seed)
    documents, model = Documents(task, seed), Tagger(**options)
    if model.heads.config.codebook != "random":
        model.fit_codebooks(documents.draw()[0], seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    started = time.process_time()
    for _ in range(steps):
        features, tags = documents.draw()
        F.cross_entropy(model(features).flatten(0, 1), tags.flatten()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.process_time() - started
    return {"accuracy": accuracy_of(model.eval(), documents), "seconds": seconds}


def mean_of(runs: dict[str, dict[str, float]], prefix: str) -> str:
    """Return the mean accuracy of some runs, for a table.

    Args:
        runs: by name.
        prefix: of their names.
    """
    found = [run["accuracy"] for key, run in runs.items() if key.startswith(prefix)]
    return f"{sum(found) / len(found):.3f}" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    record = read_json(RESULTS) if RESULTS.is_file() and not quick else {"runs": {}}
    for seed in SEEDS[:1] if quick else SEEDS:
        for task in ("twins", "clue"):
            for form, options in FORMS.items():
                key = f"{task}, {form}, seed {seed}"
                if key in record["runs"]:
                    continue
                record["runs"][key] = train(task, seed, options, 3 if quick else STEPS)
                print(key, record["runs"][key], flush=True)
                if not quick:
                    settings = {"steps": STEPS, "batch": BATCH, "learning_rate": RATE, "tokens": TOKENS}
                    about = {"command": "python benchmarks/twins.py", "settings": settings}
                    write_json(RESULTS, {**about, "environment": environment(), "runs": record["runs"]})
    cells = [["form", "twins", "clue"]]
    for form in FORMS:
        cells.append([form, *(mean_of(record["runs"], f"{task}, {form}, ") for task in ("twins", "clue"))])
    print(table(cells))


if __name__ == "__main__":
    main()
