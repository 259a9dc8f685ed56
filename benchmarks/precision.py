"""Does bfloat16 autocast cost score? `python benchmarks/precision.py`.

The recipe, shortened, on the polarity of movie sentences (MiniLM with LoRA), with `bf16` and without, the same seeds
in both. The difference is taken row by row of the test split, in the mean over the seeds; its interval is that of a
mean.
Every answer is that of the saved model in float32.
Written to `benchmarks/results/precision.json`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_selfattn import TextClassificationArguments, build_arguments, run
from hf_selfattn.files import write_json
from hf_selfattn.hub.results import environment

HERE = Path(__file__).parent
DATA = HERE.parent / ".data"
SEEDS = (0, 1, 2)
SETTINGS = {
    "model": str(DATA / "minilm"),
    **{split: str(DATA / f"vader/movies-polarity-{split}.jsonl") for split in ("train", "validation", "test")},
    "max_steps": 150,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "save": "adapter",
    "baseline": False,
}


def train(seed: int, bf16: bool) -> dict[str, NDArray[np.float64]]:
    """Return of each test row whether it is right, and its negative log-likelihood."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            build_arguments(
                {**SETTINGS, "output_dir": f"{folder}/run", "seed": seed, "bf16": bf16}, TextClassificationArguments
            )
        )
        lines = (Path(folder) / "run" / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    outputs, references = np.array([row["output"] for row in rows]), np.array([row["reference"] for row in rows])
    likelihood = outputs[np.arange(len(rows)), references]
    return {"accuracy": (outputs.argmax(axis=1) == references).astype(float), "nll": -np.log(likelihood)}


def main() -> None:
    found = {bf16: [train(seed, bf16) for seed in SEEDS] for bf16 in (True, False)}
    record = {"command": "python benchmarks/precision.py", "seeds": SEEDS, "environment": environment(), "scores": {}}
    for metric in ("accuracy", "nll"):
        values = {bf16: np.array([rows[metric] for rows in runs]) for bf16, runs in found.items()}
        difference = (values[True] - values[False]).mean(axis=0)
        half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        record["scores"][metric] = {
            "bfloat16": values[True].mean(axis=1).tolist(),
            "float32": values[False].mean(axis=1).tolist(),
            "difference": {
                "value": difference.mean(),
                "low": difference.mean() - half,
                "high": difference.mean() + half,
            },
        }
    write_json(HERE / "results" / "precision.json", record)
    print(json.dumps(record["scores"], indent=2))


if __name__ == "__main__":
    main()
