"""What a model of classes or numbers gets wrong: by class, and row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..hub.sanitize import last_part
from ..metrics.calibration import LEAST_PROBABILITY
from ..metrics.classification import class_indicators
from ..metrics.inputs import Array
from ..metrics.label_errors import label_doubts
from .blocks import (
    Block,
    Cell,
    Example,
    Examples,
    Figures,
    Passage,
    Picture,
    Section,
    Table,
    Text,
    Word,
    in_digits,
    percent,
)
from .media.pictures import as_picture, spectrogram, thumbnail
from .plots import ACCENT, MUTED, plot
from .runs import FinishedRun

MOST_CLASSES = 25  # of a confusion matrix
MOST_POINTS = 800
MOST_CHARACTERS = 700  # of a text that is shown
MOST_DOUBTS, MOST_OF_DOUBTED = 25, 160


def confusion(run: FinishedRun) -> Section:
    """Return how often each class was taken for each other one."""
    of, names = run.predictions, run.label_names
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (of.references, of.predicted), 1)
    blocks: list[Block] = []
    if len(names) <= MOST_CLASSES:
        table = {name: dict(zip(names, row.tolist(), strict=True)) for name, row in zip(names, counts, strict=True)}
        blocks.append(confusion_table(table, f"Rows of {last_part(run.split)} by label (down) and answer (across)"))
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    if pairs and len(names) > 2:
        pairs = sorted(pairs, reverse=True)[:10]
        rows = [[names[i], names[j], in_digits(n), percent(n / counts[i].sum())] for n, i, j in pairs]
        head = ["label", "answer", "rows", "of the label's rows"]
        blocks.append(Table("The most frequent confusions", head, rows))
    return Section("confusion", "Confusion matrix", blocks)


def confusion_table(counts: dict[str, dict[str, int]], caption: str) -> Table:
    """Return a table of counts, each coloured by its share of its row."""
    rows: list[list[str | Cell]] = []
    for name, row in counts.items():
        total = max(1, sum(row.values()))
        rows.append([name, *(Cell(f"{count:,}", count / total) for count in row.values())])
    return Table(caption, ["", *next(iter(counts.values()))], rows)


def confusion_by_label(run: FinishedRun) -> Section:
    """Return how often each label of a multi-label problem is found, missed, and given wrongly."""
    truth, predicted = class_indicators(run.predictions)
    kinds = {"found": truth * predicted, "missed": truth * (1 - predicted), "given wrongly": (1 - truth) * predicted}
    kinds["rightly not given"] = (1 - truth) * (1 - predicted)
    rows: list[list[str | Cell]] = []
    for index, name in enumerate(run.label_names):
        counts = [int(kind[:, index].sum()) for kind in kinds.values()]
        rows.append([name, *(Cell(f"{count:,}", count / len(truth)) for count in counts)])
    table = Table(f"Rows of {last_part(run.split)} by label", ["label", *kinds], rows)
    return Section("confusion", "Confusion by label", [table])


def predicted_and_true(run: FinishedRun) -> Section:
    """Return the values of a regression beside the right ones, and how its errors are spread."""
    truth, values = run.predictions.references, run.predictions.outputs
    shown = np.unique(np.linspace(0, len(truth) - 1, min(MOST_POINTS, len(truth))).astype(int))
    ends = [float(min(truth.min(), values.min())), float(max(truth.max(), values.max()))]

    def scatter(axes: Any) -> None:
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.plot(truth[shown], values[shown], "o", color=ACCENT, markersize=2.5, alpha=0.5, markeredgewidth=0)

    errors = values - truth
    quartiles = ", ".join(in_digits(float(value)) for value in np.quantile(errors, (0.25, 0.5, 0.75)))
    drawn = f"{len(shown):,} of {len(truth):,} rows of {last_part(run.split)}"
    first = f"Predicted and right values of {drawn}; on the diagonal they are equal."
    second = f"Errors (predicted less right) of {last_part(run.split)}; quartiles {quartiles}."
    figures = [
        plot(scatter, first, first, title="values", x="right", y="predicted"),
        plot(lambda axes: axes.hist(errors, bins=30, color=ACCENT), second, second, title="errors", y="rows"),
    ]
    return Section("errors", "Predicted and right values", [Figures(figures)])


def worst_rows(run: FinishedRun) -> Section:
    """Return the rows that were answered wrongly at the greatest loss."""
    losses, wrong = row_losses(run)
    order = rows_by_loss(run)[: run.options.examples]
    doubted = {doubt.row for doubt in label_doubts(run.predictions)}
    examples = [
        Example(
            run.place(row),
            answer_of(run, row),
            [] if run.medium else [Passage("", [Word(excerpt(run.text(row)))])],
            "perhaps a label error" if row in doubted else "",
            pictures_of(run, row),
        )
        for row in order
    ]
    what = "rows" if run.problem == "regression" else f"of {len(losses):,} rows were answered wrongly"
    said = f"{last_part(run.split)}: {int(wrong.sum()):,} {what}. By error, the greatest first."
    return Section("wrong", "Rows it got most wrong", [Text(said), Examples("", examples)])


def pictures_of(run: FinishedRun, row: int) -> list[Picture]:
    """Return an image as it is, a sound as its spectrogram; nothing of a text."""
    if not run.medium:
        return []
    draw = thumbnail if run.medium == "image" else spectrogram
    return [as_picture(draw(run.rows[row][run.medium]), run.place(row))]


def rows_by_loss(run: FinishedRun) -> list[int]:
    """Return the rows that were answered wrongly, the greatest loss first."""
    losses, wrong = row_losses(run)
    return [int(row) for row in np.argsort(-losses, kind="stable") if wrong[row]]


def row_losses(run: FinishedRun) -> tuple[Array, Array]:
    """Return the loss of each row and whether it was answered wrongly, (N,) each."""
    of = run.predictions
    if run.problem == "regression":
        return np.abs(of.outputs - of.references), np.ones(len(of.outputs), dtype=bool)
    outputs = np.clip(of.outputs, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    truth, predicted = class_indicators(of)
    wrong = (truth != predicted).any(axis=1)
    if run.problem == "multi_label_classification":
        return -np.log(np.where(truth == 1, outputs, 1 - outputs)).sum(axis=1), wrong
    return -np.log((truth * outputs).sum(axis=1)), wrong


def answer_of(run: FinishedRun, row: int) -> list[tuple[str, str]]:
    """Return label and answer of a row."""
    of, names = run.predictions, run.label_names
    truth, predicted, outputs = of.references[row], of.predicted[row], of.outputs[row]
    if run.problem == "regression":
        return [("label", f"{truth:.3f}"), ("answer", f"{outputs:.3f}")]
    if run.problem == "multi_label_classification":
        given = ", ".join(name for name, has in zip(names, truth, strict=True) if has) or "none"
        sure = zip(names, predicted, outputs, strict=True)
        found = [f"{name} ({probability:.3f})" for name, has, probability in sure if has]
        return [("labels", given), ("answer", ", ".join(found) or "none")]
    label = f"{names[truth]} ({in_digits(float(outputs[truth]))})"
    return [("label", label), ("answer", f"{names[predicted]} ({in_digits(float(outputs[predicted]))})")]


def excerpt(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text, or the beginning of a long one."""
    text = " ".join(text.split())
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}… ({more:,} more characters)"


def label_errors(run: FinishedRun) -> Section:
    """Return the labels that are probably wrong: rows on which the model confidently disagrees with them."""
    doubts, names = label_doubts(run.predictions), run.label_names
    multi = run.problem == "multi_label_classification"

    def in_words(row: int, given: int, proposed: int) -> tuple[str, str]:
        if not multi:
            return names[given], names[proposed]
        has = run.predictions.references[row][given]
        return (names[given], f"not {names[given]}") if has else (f"not {names[given]}", names[given])

    said = (
        f"On {len(doubts):,} labels of {last_part(run.split)} the model is confident of another answer (confident "
        "learning: its probability is at least the mean over the rows that have that label). Some are mistakes of the "
        "model; look at them before you change a label."
    )
    above = set(rows_by_loss(run)[: run.options.examples])
    others = [doubt for doubt in doubts if doubt.row not in above][:MOST_DOUBTS]
    pairs = Counter(in_words(doubt.row, doubt.given, doubt.proposed) for doubt in doubts)
    head = ["row", "label", "proposed", "probability"]
    rows = [
        [run.place(doubt.row), *in_words(doubt.row, doubt.given, doubt.proposed), in_digits(doubt.probability)]
        for doubt in others
    ]
    blocks: list[Block] = [Text(said)]
    if doubts:
        counted = [[*pair, in_digits(count)] for pair, count in pairs.most_common(10)]
        blocks.append(Table("By label", ["label", "proposed", "rows"], counted, numeric=False))
        caption = "The surest of them that are not shown above"
        if run.medium:
            facts = [list(zip(head[1:], row[1:], strict=True)) for row in rows]
            shown = zip(rows, facts, others, strict=True)
            examples = [Example(row[0], said, [], "", pictures_of(run, doubt.row)) for row, said, doubt in shown]
            blocks.append(Examples(caption, examples))
        else:
            texts = [excerpt(run.text(doubt.row), MOST_OF_DOUBTED) for doubt in others]
            rows = [[*row, text] for row, text in zip(rows, texts, strict=True)]
            blocks.append(Table(caption, [*head, "text"], rows, numeric=False))
    return Section("label-errors", "Likely label errors", blocks)
