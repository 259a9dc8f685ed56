"""Write the tables of the README and of benchmarks/README.md, and the plot of the study: `make results`.

All are made from `benchmarks/results`. `python -m benchmarks.quality.tables --check` writes nothing and fails where
one of them is behind.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from textwrap import wrap

from hf_selfattn.files import write_text

from ..records import RESULTS, ROOT, Record, read_results
from . import plot, study, yardstick

README, ALL, PLOT = ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "docs" / "study.svg"
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->\n)", re.DOTALL)

# What the table shows of each experiment: its name there, the split and the metric.
SHOWN = {
    "bbc-lora": ("BBC News, 5 topics", "test", "accuracy"),
    "r8-lora": ("Reuters R8, 8 topics", "test", "macro_f1"),
    "movies-polarity": ("VADER movies, polarity of sentences", "test", "accuracy"),
    "movies-valence": ("VADER movies, valence of sentences", "test", "pearson"),
}

# The rows of `long_reviews.json` and `conll2003.json`.
READINGS = {
    "random/first": "the same model on the first 512 tokens",
    "random/random": "the same model on 512 random tokens",
    "random/windows": "the same model, mean over windows of 512",
    "first/first": "trained and read on the first 512 tokens",
    "tfidf/whole": "TF-IDF with logistic regression, whole",
}
# Experiment, system and title of each tagger; the one that the others of its experiment are set against comes first.
TAGGERS = {
    "conll2003": {
        "stock-full-2e-4": "stock `AutoModelForTokenClassification`, full",
        "sentence-full-2e-4": "ours, sentence, full, Viterbi",
        "document-full-2e-4-argmax": "ours, document, full, argmax",
        "document-full-2e-4": "ours, document, full, Viterbi",
        "document-crf-full-2e-4": "ours, document, full, CRF",
    },
    "conll2003-lora": {
        "stock-lora-1e-3": "stock, LoRA",
        "document-lora-1e-3": "ours, document, LoRA, Viterbi",
    },
    "conll2003-mpnet": {
        "mpnet-stock-full-5e-5": "MPNet: stock, full",
        "mpnet-document-full-5e-5": "MPNet: ours, document, full, Viterbi",
    },
}

LENGTHS, GPU_LENGTHS = (512, 1024, 4096, 16384), (1024, 4096, 16384, 65536)  # of the tables of attention layers

# Figures of `training.json`, each with its title.
TRAINING = {
    "equal: samples_per_cpu_second, ours / stock": "rows trained a second, 128 tokens, against the stock head",
    "equal: samples_per_cpu_second, ours / stock_fast": "the same, the stock head with our attention kernel",
    "equal_two_processes: samples_per_cpu_second, ours / stock": "the same, two processes, the stock head as it is",
    "defaults: samples_per_cpu_second, ours / stock": "rows of R8 trained a second, against `Trainer` as it is",
    "inference: cpu_seconds, ours / stock": "time of an answer, 128 tokens",
    "memory: MiB, ours / stock": "peak memory of the training",
}


def scores_table() -> list[str]:
    """Rows of the experiments with all training rows: mean ± standard deviation over their runs."""
    lines = [
        "| MiniLM + LoRA | score | ours | TF-IDF | runs | training, minutes each |",
        "|---|---|---|---|---|---|",
    ]
    for name, (title, split, metric) in SHOWN.items():
        runs = list(study.results_of(name)["runs"].values())
        ours = [run["scores"][split][metric][0] for run in runs]
        theirs = statistics.fmean(run["baseline"]["tfidf"][split][metric][0] for run in runs)
        deviation = statistics.stdev(ours) if len(ours) > 1 else 0.0
        minutes = statistics.fmean(run["training"]["seconds"] for run in runs) / 60
        score = f"{statistics.fmean(ours):.3f} ± {deviation:.3f}"
        lines.append(
            f"| [{title}](results/{name}.json) | {metric} | {score} | {theirs:.3f} | {len(runs)} | {minutes:.0f} |"
        )
    return lines


def reviews_table() -> list[str]:
    """Rows of the ways to read long reviews: mean accuracy, and what the whole reading of ours gains."""
    record = read_results(RESULTS / "long_reviews.json")
    lines = ["| long movie reviews, read | accuracy | ours gains | p | splits |", "|---|---|---|---|---|"]
    others = [test for test in record["comparisons"] if test["ours"] == "random/whole"]
    title = "[whole](results/long_reviews.json), trained on random excerpts (ours)"
    lines.append(f"| {title} | {others[-1]['value_a']:.3f} | | | {len(others[-1]['splits'])} |")
    for test in others:
        interval = f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]"
        row = [
            READINGS[test["theirs"]],
            f"{test['value_b']:.3f}",
            interval,
            f"{test['p_value']:.3f}",
            len(test["splits"]),
        ]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def tagger_table() -> list[str]:
    """Rows of the taggers of CoNLL-2003: mean F1 over their seeds, and what they gain on the stock model."""
    title = "[CoNLL-2003](results/conll2003.json), MiniLM"
    lines = [
        f"| {title} | test F1 | seeds | gain on stock | p | training, minutes each |",
        "|---|---|---|---|---|---|",
    ]
    for experiment, systems in TAGGERS.items():
        lines += tagger_rows(systems, study.results_of(experiment))
    return lines


def tagger_rows(systems: dict[str, str], record: Record) -> list[str]:
    """Rows of the taggers of one experiment."""
    lines, stock = [], next(iter(systems))
    for system, title in systems.items():
        mine = [run for name, run in record["runs"].items() if name.partition("-seed-")[0] == system]
        f1 = statistics.fmean(run["scores"]["test"]["f1"][0] for run in mine)
        timed = [run["training"]["seconds"] for run in mine if run["training"]["seconds"] >= 60]
        test = record["comparisons"].get(f"{system} - {stock}")
        gain = f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]" if test else ""
        p_value = f"{test['p_value']:.4f}" if test else ""
        # A run that a second start only had to score has no time of its training.
        duration = f"{statistics.fmean(timed) / 60:.0f}" if timed else ""
        mark = study.MISLABELLED if system == stock else ""
        lines.append(f"| {title}{mark} | {f1:.4f} | {len(mine)} | {gain} | {p_value} | {duration} |")
    return lines


def training_table() -> list[str]:
    """Rows of what the heads cost: ours over the stock head, median over rounds, least and greatest."""
    summary = read_results(RESULTS / "training.json")["summary"]
    lines = ["| [MiniLM with LoRA](results/training.json), ours / stock | ratio |", "|---|---|"]
    for name, title in TRAINING.items():
        if ratio := summary.get(name):
            spread = f" [{ratio['least']:.2f}, {ratio['greatest']:.2f}]" if "least" in ratio else ""
            lines.append(f"| {title} | {ratio['median']:.2f}{spread} |")
    return lines


def attention_table(name: str, dtype: str, lengths: tuple[int, ...], where: str) -> list[str]:
    """Rows of one attention layer and its peers: how many times as fast as full attention, and their memory.

    Args:
        lengths: in tokens; the memory is that of the second last.
    """
    rows = [row for row in read_results(RESULTS / f"{name}.json")["rows"] if row["dtype"] == dtype]
    lines = [
        f"| [one layer](results/{name}.json) {where}, times as fast as full attention, "
        f"forward / and backward | {' | '.join(f'{length:,} tokens' for length in lengths)} "
        f"| MiB added at {lengths[-2]:,} |",
        "|---" * (len(lengths) + 2) + "|",
    ]
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = {row["tokens"]: row for row in rows if row["layer"] == layer and "seconds" in row}
        ratios = [" / ".join(f"{x:.1f}" for x in own[n]["faster_than_full"]) if n in own else "" for n in lengths]
        memory = " / ".join(f"{size:.0f}" for size in own[lengths[-2]]["mebibytes"])
        lines.append(f"| {layer} | {' | '.join(ratios)} | {memory} |")
    return lines


def twins_table() -> list[str]:
    """Rows of the study of answers far away: accuracy of each form, with its interval, and its share of full's."""
    record = read_results(RESULTS / "twins.json")
    summary, keys = record["summary"], {row["form"]: row["share_of_keys"] for row in record["rows"]}
    tasks = list(dict.fromkeys(row["task"] for row in summary))
    lines = [
        "| [answers 2,048 tokens away](results/twins.json), grouped attention | keys read "
        f"| {' | '.join(f'{task}: accuracy | of full' for task in tasks)} |",
        "|---" * (2 + 2 * len(tasks)) + "|",
    ]
    for form in dict.fromkeys(row["form"] for row in summary):
        own = {row["task"]: row for row in summary if row["form"] == form}
        cells = []
        for task in tasks:
            accuracy = own[task]["accuracy"]
            interval = f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
            cells += [f"{accuracy['value']:.3f} {interval}", f"{own[task]['share_of_full']['value']:.3f}"]
        lines.append(f"| {form} | {keys[form]:.1%} | {' | '.join(cells)} |")
    return lines


def length_table() -> list[str]:
    """Rows of the time and memory of one long text."""
    rows: list[Record] = read_results(RESULTS / "long_input.json")["rows"]
    lines = ["| tokens of one text | seconds, one thread | memory, MiB |", "|---|---|---|"]
    return lines + [f"| {row['tokens']} | {row['seconds']:.1f} | {row['mebibytes']:.0f} |" for row in rows]


def predict_table() -> list[str]:
    """Rows of how fast files are answered beside the pipeline of a stock model."""
    rows: list[Record] = read_results(RESULTS / "predict.json")["rows"]
    texts = list(dict.fromkeys(row["texts"] for row in rows))
    title = "[rows a second](results/predict.json) (and tokens), times those of the pipeline"
    lines = [f"| {title} | {' | '.join(texts)} |", "|---" * (len(texts) + 1) + "|"]
    for system in dict.fromkeys(row["system"] for row in rows):
        cells = [f"{row['ratio']:.1f} ({row['token_ratio']:.1f})" for row in rows if row["system"] == system]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return lines


def rows_table() -> list[str]:
    """Rows of the memory of `predict` while it answers a million rows."""
    memory: list[Record] = read_results(RESULTS / "predict_rows.json")["memory"]
    looks, sizes = ([f"{look[key]:,.0f}" for look in memory] for key in ("rows", "mebibytes"))
    title = "[rows answered](results/predict_rows.json)"
    lines = [f"| {title} | {' | '.join(looks)} |", "|---" * (len(memory) + 1) + "|"]
    return [*lines, f"| memory of the process, MiB | {' | '.join(sizes)} |"]


def image_probe_table() -> list[str]:
    """Rows of what an epoch of heads on kept features costs beside a pass of the backbone over the images."""
    rows: list[Record] = read_results(RESULTS / "image_probe.json")["rows"]
    title = "[CPU milliseconds for an image](results/image_probe.json)"
    lines = [f"| {title} | pass of the backbone | epoch of the heads | epoch / pass |", "|---|---|---|---|"]
    return lines + [
        f"| {row['backbone']} | {1000 * row['pass']:.0f} | {1000 * row['epoch']:.1f} | {row['epoch / pass']:.3f} |"
        for row in rows
    ]


def serve_table() -> list[str]:
    """Rows of the server: answers that are made together, and one after the other."""
    summary = read_results(RESULTS / "serve.json")["summary"]
    lines = [
        "| [32 clients, short reviews](results/serve.json) | requests a second | p50, ms | p99, ms |",
        "|---|---|---|---|",
    ]
    for mode in ("batched", "one by one"):
        own = summary[mode]
        lines.append(f"| {mode} | {own['requests_per_second']:.0f} | {own['p50_ms']:.0f} | {own['p99_ms']:.0f} |")
    return [*lines, f"| ratio, median of the rounds | {summary['batched / one by one']:.1f} | | |"]


def headline() -> list[str]:
    """Return the README's results: how to read the table, and the table."""
    shown = {}
    for column in study.FEW:
        scores = [study.mean_score(column, row) for row in ("contrastive", "setfit")]
        shown[column.title] = " and ".join(f"{score[0]:.3f}" for score in scores if score)
    above = (
        f"Stock heads are tuned here, too: rates of a grid on validation, ten epochs. {yardstick.gains()} It learns "
        "in fewer steps, and takes two to four times the seconds of one of their trainings, for it searches by itself."
        " With 8 rows of each class a contrastive phase and then a probe is level with SetFit on topics (BBC "
        f"{shown['BBC, 8']}, R8 {shown['R8, 8']}) in a ninth of its time, behind on sentences "
        f"({shown['movies, 8']}), with 16 ahead there ({shown['movies, 16']}). [All tables](benchmarks/README.md)."
    )
    below = (
        "500 movie sentences, 500 rows of R8 of 20 words each, the sentences of 35 documents of CoNLL-2003. Means "
        "over three seeds, in brackets the mean of the runs' 95 % intervals. What `auto` compares was decided with R8 "
        "and other draws of movies in sight. The stock cell is the better of full tuning and LoRA on these test rows."
    )
    return [*wrap(above, 118), "", *yardstick.headline(), "", *wrap(below, 118)]


# The blocks of the two files by name, each between `<!-- NAME -->` and `<!-- /NAME -->`.
BLOCKS: dict[str, Callable[[], list[str]]] = {
    "results": headline,
    "study": partial(study.table, study.FULL, study.SYSTEMS, "MiniLM"),
    "yardstick": partial(
        study.table, yardstick.YARDSTICK, yardstick.SYSTEMS, "MiniLM, 500 rows", study.cell_with_interval
    ),
    "curves": yardstick.curves,
    "mpnet": partial(study.table, study.MPNET, study.SYSTEMS, "MPNet"),
    "few": partial(study.table, study.FEW, study.SYSTEMS, "rows of each class"),
    "ablations": partial(study.table, study.ABLATED, study.ABLATIONS, "heads on frozen features"),
    "images": partial(study.table, study.IMAGES, study.IMAGE_HEADS, "frozen MobileNetV2"),
    "tunedimages": partial(study.table, study.TUNED_IMAGES, study.WHOLE_IMAGES, "MobileNetV2, fine-tuned"),
    "sounds": partial(study.table, study.SOUNDS, study.SOUND_HEADS, "a source that was not trained on"),
    "speech": partial(study.table, study.SPEECH, study.RECOGNISERS, "frozen Whisper tiny.en"),
    "starts": partial(study.table, study.STARTED, study.LINEAR_STARTS, "few rows"),
    "detection": partial(
        study.table, study.DETECTION, study.DETECTORS, "frozen MobileNetV2", study.cell_with_interval
    ),
    "whole": scores_table,
    "taggers": tagger_table,
    "reviews": reviews_table,
    "training": training_table,
    "layers": partial(attention_table, "attention", "float32", LENGTHS, "on a CPU"),
    "layers_gpu": partial(attention_table, "attention_gpu", "bfloat16", GPU_LENGTHS, "on a GPU (NVIDIA H200)"),
    "twins": twins_table,
    "length": length_table,
    "predict": predict_table,
    "imageprobe": image_probe_table,
    "rows": rows_table,
    "serve": serve_table,
}


def filled(text: str) -> str:
    """Return a text with its blocks written anew."""
    return BLOCK.sub(lambda found: "\n".join([found[1], *BLOCKS[found[2]](), "", found[3]]), text)


def main() -> None:
    wanted = {path: filled(path.read_text(encoding="utf-8")) for path in (README, ALL)} | {PLOT: plot.svg()}
    behind = [
        os.path.relpath(path, ROOT)
        for path, text in wanted.items()
        if not path.is_file() or path.read_bytes() != text.encode("utf-8")
    ]
    if "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(behind)}: behind benchmarks/results. Run make results." if behind else 0)
    for path, text in wanted.items():
        write_text(path, text)


if __name__ == "__main__":
    main()
