"""What the results files of the yardstick say: `tuning: auto` beside stock models whose settings were chosen, too."""

from __future__ import annotations

import statistics

from ..records import Record
from .study import Column, gain_of, mean_score, runs_of, with_interval

YARDSTICK = tuple(
    Column(f"yardstick-{name}", title, metric, "stock-full")
    for name, title, metric in (
        ("r8", "R8", "macro_f1"),
        ("movies", "movies", "accuracy"),
        ("conll2003", "CoNLL", "f1"),
    )
)
STOCK = {"stock-full": "stock head, full", "stock-lora-all": "stock head, LoRA on every linear layer"}
SYSTEMS = {
    "tfidf": "TF-IDF, logistic regression",
    "embedding-lr": "sentence embedding, logistic regression",
    **STOCK,
    "auto": "ours, `tuning=auto`",
}
SHARES = (0.25, 0.5, 0.75, 1.0)  # of a training, after which its curve is read


def headline() -> list[str]:
    """Return the README's table: ours, the better of the tuned stock rows, and TF-IDF."""
    lines = ["| MiniLM | metric | ours, `tuning=auto` | stock head, tuned | TF-IDF |", "|---|---|---|---|---|"]
    for column in YARDSTICK:
        ours, tfidf = mean_score(column, "auto"), mean_score(column, "tfidf")
        stock = [score for row in STOCK if (score := mean_score(column, row))]
        if ours and stock:
            title = f"[{column.title}](benchmarks/results/{column.experiment}.json)"
            shown = [with_interval(ours), with_interval(max(stock)), with_interval(tfidf) if tfidf else ""]
            lines.append(f"| {title} | {column.metric} | {' | '.join(shown)} |")
    return lines


def gains() -> str:
    """Return in words what ours gains on the stock head with full tuning, and how surely."""
    told = []
    for column in YARDSTICK:
        if test := gain_of(column, "auto"):
            gain = "{difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {p_value:.2g}, seeds {seeds}".format(
                **{**test, "seeds": len(test["seeds"])}
            )
            told.append(f"{column.title} {gain}")
    return f"`tuning=auto` against their full tuning: {'; '.join(told)}." if told else ""


def curves() -> list[str]:
    """Rows of the learning curves: the score on validation after parts of the training, and what all of it took."""
    after = " | ".join(f"{share:.0%}" for share in SHARES)
    lines = [f"| score on validation after | {after} | of steps | CPU seconds |", "|---" * (len(SHARES) + 3) + "|"]
    for column in YARDSTICK:
        for row in (*STOCK, "auto"):
            if runs := [run for run in runs_of(column, row) if "curve" in run["training"]]:
                values = [f"{statistics.fmean(score_after(run, share) for run in runs):.3f}" for share in SHARES]
                took = [statistics.fmean(run["training"][key] for run in runs) for key in ("steps", "cpu_seconds")]
                cells = [f"{column.title}: {SYSTEMS[row]}", *values, *(f"{value:.0f}" for value in took)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def score_after(run: Record, share: float) -> float:
    """Return the score on validation after a share of the steps: at the last evaluation until then, or the first."""
    curve = run["training"]["curve"]
    return float([score for step, score in curve if step <= share * curve[-1][0] or step == curve[0][0]][-1])
