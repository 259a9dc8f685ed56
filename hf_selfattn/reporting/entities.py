"""What a tagger gets wrong: by kind, by type, and in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..hub.sanitize import last_part
from ..metrics.span_errors import KINDS
from .blocks import Block, Example, Examples, Figures, Passage, Section, Table, Text, Word, in_digits
from .errors import confusion_table
from .plots import ACCENT, OTHER, plot
from .runs import FinishedRun

MEANINGS = {
    "correct": "right span and type",
    "wrong_type": "right span, another type",
    "wrong_border": "right type, another span",
    "wrong_both": "overlaps an entity, with another span and type",
    "missed": "an entity where none was found",
    "spurious": "found where no entity is",
}
SIDES = {"references": "in the labels", "predictions": "found"}
MOST_WORDS = 40  # on either side of a mistake


def entity_errors(run: FinishedRun) -> Section:
    """Return the entities of the split by what is wrong with them, with examples in their sentences."""
    errors = run.scored["errors"]
    kinds = errors["kinds"]
    rows = [
        [kind.replace("_", " "), MEANINGS[kind], *(in_digits(kinds[kind][side]) for side in kinds[kind])]
        for kind in KINDS
    ]
    split = last_part(run.split)

    def draw(axes: Any) -> None:
        wrong = [kind for kind in KINDS if kind != "correct"]
        for place, (side, colour) in enumerate((("references", ACCENT), ("predictions", OTHER))):
            label = SIDES[side]
            at = [row + 0.36 * (place - 0.5) for row in range(len(wrong))]
            axes.barh(at, [kinds[kind][side] for kind in wrong], height=0.34, color=colour, label=label)
        axes.set_yticks(range(len(wrong)), [kind.replace("_", " ") for kind in wrong])
        axes.invert_yaxis()
        axes.grid(False, axis="y")

    told = "; ".join(f"{row[0]}: {row[2]} in the labels, {row[3]} found" for row in rows)
    caption = f"Entities of {split} by kind of error."
    blocks: list[Block] = [
        Figures([plot(draw, f"{caption} {told}.", caption, x="entities")]),
        Table(f"Entities of {split}", ["kind", "meaning", *SIDES.values()], rows, numeric=False),
    ]
    if strings := errors.get("strings"):
        names = {**SIDES, "correct": "correct", "precision": "precision", "recall": "recall", "f1": "F1"}
        table = [[name, *(in_digits(of[key]) for key in names)] for name, of in strings.items()]
        caption = "Entities whose text stands in train (known), and others (unseen)"
        blocks.append(Table(caption, ["", *names.values()], table))
    return Section("entity-errors", "Errors by kind", blocks)


def entity_examples(run: FinishedRun) -> Section:
    """Return examples of each kind of error, the entities highlighted in the text."""
    blocks: list[Block] = [Text("Above the entities of the labels, below those that were found; ▸ names the mistake.")]
    for kind, found in run.scored["errors"]["examples"].items():
        chosen = found[: max(1, run.options.examples // 3)] if run.options.examples else []
        examples = [entity_example(run, example) for example in chosen]
        if examples:
            blocks.append(Examples(f"{kind.replace('_', ' ').capitalize()}: {MEANINGS[kind]}", examples))
    return Section("entity-examples", "Errors in the text", blocks)


def entity_example(run: FinishedRun, example: dict[str, Any]) -> Example:
    """Return a sentence with its mistake, with the entities of both sides."""
    answer = run.answers[example["sentence"]]
    sides = [example[side] for side in ("reference", "prediction") if example[side]]
    first = max(0, min(side["start"] for side in sides) - MOST_WORDS)
    stop = max(side["end"] for side in sides) + MOST_WORDS
    passages = [
        Passage(name, marked(answer["tokens"], answer[side], first, stop, example[which]))
        for name, side, which in (("label", "reference", "reference"), ("found", "output", "prediction"))
    ]
    return Example(last_part(example["place"]), [], passages)


def marked(
    words: Sequence[str], tags: Sequence[str], first: int, stop: int, wrong: dict[str, Any] | None
) -> list[Word]:
    """Return some words of a sentence with the entities of its tags, the wrong one pointed at."""
    shown = [Word("… ")] if first else []
    at = first
    for start, end, kind in spans_of(tags):
        if end <= first or start >= stop:
            continue
        start = max(start, first)
        shown.append(Word(" ".join([*words[at:start], ""])))
        is_wrong = wrong is not None and wrong["start"] < end and start < wrong["end"]
        shown.append(
            Word(" ".join(words[start:end]), 1.0 if is_wrong else 0.5, label=f"▸ {kind}" if is_wrong else kind)
        )
        shown.append(Word(" "))
        at = end
    shown.append(Word(" ".join(words[at:stop]) + (" …" if stop < len(words) else "")))
    return shown


def spans_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the entities (first word, word after the last, type) of tags in IOB2; an I-X without B-X begins one."""
    spans: list[tuple[int, int, str]] = []
    before = ""
    for place, tag in enumerate(tags):
        kind = tag[2:]
        if tag.startswith("B-") or (kind and kind != before):
            spans.append((place, place + 1, kind))
        elif kind:
            spans[-1] = (spans[-1][0], place + 1, kind)
        before = kind
    return spans


def type_confusion(run: FinishedRun) -> Section:
    """Return how often each type of entity was taken for each other one."""
    caption = f"Entities of {last_part(run.split)} by type in the labels (down) and found (across); none: no entity"
    return Section("confusion", "Confusion of types", [confusion_table(run.scored["errors"]["confusion"], caption)])
