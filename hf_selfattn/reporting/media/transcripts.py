"""What a recogniser of speech gets wrong: its most frequent word errors, and the sounds with most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...hub.sanitize import last_part
from ..blocks import Example, Examples, Passage, Section, Table, Text, Word, in_digits
from ..errors import pictures_of
from ..runs import FinishedRun

if TYPE_CHECKING:
    from ...metrics.recognition import AlignedWord

NONE = "–"


def frequent_errors(run: FinishedRun) -> Section:
    """Return the words that were most often missed, added or taken for others."""
    from ...metrics.recognition import word_errors  # jiwer is not there for others

    found = word_errors(*texts_of(run))
    rows = [[word.reference or NONE, word.prediction or NONE, word.kind, in_digits(count)] for word, count in found]
    table = Table(f"Words of {last_part(run.split)}", ["said", "recognised", "kind", "times"], rows, numeric=False)
    return Section("word-errors", "The most frequent word errors", [table])


def worst_transcripts(run: FinishedRun) -> Section:
    """Return the sounds with most word errors, what was said and what was recognised word by word."""
    from ...metrics.recognition import align_words, error_rates

    aligned = [align_words(*pair) for pair in zip(*texts_of(run), strict=True)]
    counts = [sum(word.kind != "equal" for word in row) for row in aligned]
    order = sorted((row for row, count in enumerate(counts) if count), key=lambda row: -counts[row])
    examples = [
        Example(
            run.place(row),
            [(name, in_digits(value)) for name, value in rates.items() if name in ("wer", "cer")],
            [Passage("said, and what was recognised for it", [aligned_word(word) for word in aligned[row]])],
            pictures=pictures_of(run, row),
        )
        for row in order[: run.options.examples]
        for rates in [error_rates(*([text] for text in (run.answers[row]["reference"], run.answers[row]["output"])))]
    ]
    said = f"{last_part(run.split)}: {len(order):,} of {len(aligned):,} sounds with a wrong word, most errors first."
    return Section("wrong", "Sounds it got most wrong", [Text(said), Examples("", examples)])


def texts_of(run: FinishedRun) -> tuple[list[str], list[str]]:
    """Return the transcripts of the split, and what was recognised."""
    return [answer["reference"] for answer in run.answers], [answer["output"] for answer in run.answers]


def aligned_word(word: AlignedWord) -> Word:
    """Return a word that was said, marked where another one, or none, was recognised, or one that was not said."""
    if word.kind == "equal":
        return Word(f"{word.reference} ")
    return Word(word.reference or NONE, 0.8, label=word.prediction or NONE, title=word.kind)
