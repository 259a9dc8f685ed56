"""Write the README's results section and the plot of the study from `benchmarks/results`: `make results`.

`python benchmarks/tables.py --check` writes nothing and fails where one of them is behind.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import plot
import study

from hf_selfattn.files import read_json, write_text

HERE = Path(__file__).parent
README, PLOT = HERE.parent / "README.md", HERE.parent / "docs" / "study.svg"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->\n"

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
    """Rows of the experiments that have results: mean ± standard deviation over their runs."""
    lines = [
        "| MiniLM + LoRA | score | ours | TF-IDF | runs | training, minutes each |",
        "|---|---|---|---|---|---|",
    ]
    for name, (title, split, metric) in SHOWN.items():
        path = HERE / "results" / f"{name}.json"
        if not path.is_file():
            continue
        record = read_json(path)
        runs = list(record["runs"].values())
        ours = record["summary"][split][metric]
        theirs = [run["baseline"]["tfidf"]["splits"][split]["scores"][metric]["value"] for run in runs]
        minutes = sum(run["training"]["seconds"] for run in runs) / len(runs) / 60
        lines.append(
            f"| [{title}](benchmarks/results/{name}.json) | {metric} | {ours['mean']:.3f} ± {ours['sd']:.3f} "
            f"| {sum(theirs) / len(theirs):.3f} | {len(runs)} | {minutes:.0f} |"
        )
    return lines


def reviews_table() -> list[str]:
    """Rows of the ways to read long reviews: mean accuracy, and what the whole reading of ours gains."""
    record = read_json(HERE / "results" / "long_reviews.json")
    lines = ["| long movie reviews, read | accuracy | ours gains | p | splits |", "|---|---|---|---|---|"]
    others = [test for test in record["comparisons"] if test["ours"] == "random/whole"]
    title = "[whole](benchmarks/results/long_reviews.json), trained on random excerpts (ours)"
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
    title = "[CoNLL-2003](benchmarks/results/conll2003.json), MiniLM"
    lines = [
        f"| {title} | test F1 | seeds | gain on stock | p | training, minutes each |",
        "|---|---|---|---|---|---|",
    ]
    for experiment, systems in TAGGERS.items():
        path = HERE / "results" / f"{experiment}.json"
        if path.is_file():
            lines += tagger_rows(experiment, systems, read_json(path)["runs"])
    return lines


def tagger_rows(experiment: str, systems: dict[str, str], runs: dict[str, Any]) -> list[str]:
    """Rows of the taggers of one experiment."""
    tests = HERE / "results" / f"{experiment}-comparisons.json"
    compared = read_json(tests)["comparisons"] if tests.is_file() else {}
    lines, stock = [], next(iter(systems))
    for system, title in systems.items():
        mine = [run for name, run in runs.items() if name.partition("-seed-")[0] == system]
        if not mine:
            continue
        f1 = sum(run["splits"]["test"]["scores"]["f1"]["value"] for run in mine) / len(mine)
        timed = [run["training"]["seconds"] for run in mine if run["training"]["seconds"] >= 60]
        test = compared.get(f"{system} - {stock}")
        gain = f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]" if test else ""
        p_value = f"{test['p_value']:.4f}" if test else ""
        # A run that a second start only had to score has no time of its training.
        duration = f"{sum(timed) / len(timed) / 60:.0f}" if timed else ""
        lines.append(f"| {title} | {f1:.4f} | {len(mine)} | {gain} | {p_value} | {duration} |")
    return lines


def training_table() -> list[str]:
    """Rows of what the heads cost: ours over the stock head, median over rounds, least and greatest."""
    summary = read_json(HERE / "results" / "training.json")["summary"]
    lines = ["| [MiniLM with LoRA](benchmarks/results/training.json), ours / stock | ratio |", "|---|---|"]
    for name, title in TRAINING.items():
        if ratio := summary.get(name):
            spread = f" [{ratio['least']:.2f}, {ratio['greatest']:.2f}]" if "least" in ratio else ""
            lines.append(f"| {title} | {ratio['median']:.2f}{spread} |")
    return lines


def attention_table(name: str, dtype: str, lengths: tuple[int, ...], where: str) -> list[str]:
    """Rows of one attention layer and its peers: how many times as fast as full attention, and their memory.

    Args:
        name: of the results file.
        dtype: of the rows that are shown.
        lengths: in tokens; the memory is that of the second last.
        where: it ran, for the title.
    """
    rows = [row for row in read_json(HERE / "results" / f"{name}.json")["rows"] if row["dtype"] == dtype]
    lines = [
        f"| [one layer](benchmarks/results/{name}.json) {where}, times as fast as full attention, "
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
    record = read_json(HERE / "results" / "twins.json")
    summary, keys = record["summary"], {row["form"]: row["share_of_keys"] for row in record["rows"]}
    tasks = list(dict.fromkeys(row["task"] for row in summary))
    lines = [
        "| [answers 2,048 tokens away](benchmarks/results/twins.json), grouped attention | keys read "
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
    rows: list[dict[str, Any]] = read_json(HERE / "results" / "long_input.json")["rows"]
    lines = ["| tokens of one text | seconds, one thread | memory, MiB |", "|---|---|---|"]
    return lines + [f"| {row['tokens']} | {row['seconds']:.1f} | {row['mebibytes']:.0f} |" for row in rows]


def with_results(readme: str) -> str:
    """Return the README with its results section written anew."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    section = "\n".join(
        [
            *scores_table(),
            "",
            *reviews_table(),
            "",
            *tagger_table(),
            "",
            *training_table(),
            "",
            *attention_table("attention", "float32", LENGTHS, "on a CPU"),
            "",
            "Width 384, single precision, one thread. Full attention has 12 heads of 32 and ours 4, whose values are",
            "wider; `grouped, 12 heads` and `full, 4 heads` compare like with like.",
            "",
            "![milliseconds against tokens](benchmarks/results/attention.png)",
            "",
            *attention_table("attention_gpu", "bfloat16", GPU_LENGTHS, "on a GPU (NVIDIA H200)"),
            "",
            "There full attention is FlashAttention, and the time of ours is the launches of many small kernels up to",
            "16,384 tokens: on such a GPU it pays for longer inputs. `grouped` is what a model takes by itself,",
            "FlexAttention beyond 4,096 tokens.",
            "",
            *twins_table(),
            "",
            "Documents of 4,096 tokens; three seeds. In `twins` a name is tagged as it was elsewhere, in `elsewhere`",
            "the answer stands at a token that a relation to be learned leads to. `grouped` has the defaults.",
            "",
            *study.tables(),
            "",
            "On two cores that were shared; ± is the standard deviation over runs, each run's own interval stands in",
            "its file. One long text through MiniLM (window 512) with heads:",
            "",
            *length_table(),
        ]
    )
    return f"{before}{BEGIN}\n{section}\n\n{END}{after}"


def main() -> None:
    wanted = {README: with_results(README.read_text(encoding="utf-8")), PLOT: plot.svg()}
    behind = [
        path.name for path, text in wanted.items() if not path.is_file() or path.read_bytes() != text.encode("utf-8")
    ]
    if "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(behind)}: behind benchmarks/results. Run make results." if behind else 0)
    for path, text in wanted.items():
        write_text(path, text)


if __name__ == "__main__":
    main()
