"""Score finished taggers with another decoding: `python benchmarks/redecode.py EXPERIMENT SYSTEM DECODING`.

SYSTEM is the name of runs without `-seed-N`, trained by `benchmarks/run.py` and still in `runs/EXPERIMENT`. Their
weights stay as they are; the scores are added to `benchmarks/results/EXPERIMENT.json` as SYSTEM-DECODING-seed-N, so
that `benchmarks/compare.py` can set them against others.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from run import PREDICTIONS, RESULTS, RUNS, keep_predictions, shortened
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from hf_selfattn import NerArguments
from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub.results import environment, together
from hf_selfattn.tasks.token_classification import TAGGING, best_labels


def score(folder: Path, decoding: str, output_dir: Path) -> dict[str, Any]:
    """Return the results of a finished run with the scores of another decoding."""
    results = read_json(folder / "results.json")
    known = {field.name for field in fields(NerArguments)}
    given = {name: value for name, value in results["arguments"].items() if name in known}
    arguments = NerArguments(**{**given, "output_dir": str(output_dir)})
    data = TAGGING.with_validation(arguments, TAGGING.load(arguments))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    model.config.decoding = decoding
    evaluator = Trainer(
        model=model,
        args=TrainingArguments(str(output_dir), per_device_eval_batch_size=32, use_cpu=True, disable_tqdm=True),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        preprocess_logits_for_metrics=best_labels,
    )
    tokens = TAGGING.tokenise(arguments, data, tokenizer)
    return {
        **results,
        "decoding": decoding,
        "environment": environment(),
        **TAGGING.evaluate(arguments, data, tokens, evaluator, output_dir),
    }


def main() -> None:
    experiment, system, decoding = sys.argv[1:]
    target = RESULTS / f"{experiment}.json"
    for seed in range(10):
        folder, name = RUNS / experiment / f"{system}-seed-{seed}", f"{system}-{decoding}-seed-{seed}"
        record = read_json(target)
        if name in record["runs"] or not (folder / "results.json").is_file():
            continue
        results = score(folder, decoding, folder / decoding)
        kept = {**shortened(results), "decoding": decoding}
        keep_predictions(folder / decoding, PREDICTIONS / experiment, name)
        record.update(together({**record["runs"], name: kept}))
        write_json(target, record)
        print(name, {split: kept["splits"][split]["scores"]["f1"]["value"] for split in kept["splits"]})


if __name__ == "__main__":
    main()
