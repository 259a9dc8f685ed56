"""Write the results section of the README from `benchmarks/results`: `python benchmarks/tables.py [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hf_selfattn.results import read_json, write_text

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->\n"

# What the table shows of each experiment: its name there, the split and the metric.
SHOWN = {
    "bbc-lora": ("BBC News, 5 topics", "test", "accuracy"),
    "r8-lora": ("Reuters R8, 8 topics", "test", "macro_f1"),
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
            "On two cores that were shared; ± is the standard deviation over runs, each run's own interval stands in",
            "its file. One long text through MiniLM (window 512) with heads:",
            "",
            *length_table(),
        ]
    )
    return f"{before}{BEGIN}\n{section}\n\n{END}{after}"


def main() -> None:
    now = README.read_text(encoding="utf-8")
    wanted = with_results(now)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if now == wanted else "README.md is behind benchmarks/results: run python benchmarks/tables.py")
    write_text(README, wanted)


if __name__ == "__main__":
    main()
