"""Finished runs on one page of HTML that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ..files import write_text
from ..hub.card import TASK_TITLES
from ..hub.sanitize import last_part, one_line
from . import attention, background, confidence, entities, errors, learning, scores
from .blocks import Section
from .media import detections, transcripts
from .options import ReportArguments
from .plots import with_own_ids
from .runs import FinishedRun, open_runs
from .side_by_side import side_by_side

Build = Callable[[FinishedRun], Section | None]

BEGINNING: tuple[Build, ...] = (scores.all_scores, learning.learning_curves)
CONFIDENCE: tuple[Build, ...] = (confidence.reliability, confidence.abstention_curves, confidence.thresholds)
OF_ROWS: tuple[Build, ...] = (scores.scores_by_part, errors.worst_rows, errors.label_errors)
OF_CLASSES: tuple[Build, ...] = (scores.scores_by_class, errors.confusion, *CONFIDENCE, *OF_ROWS)
# The sections between scores and settings, by problem; one that is not named has none.
SECTIONS: dict[str, tuple[Build, ...]] = {
    "single_label_classification": OF_CLASSES,
    "ordinal": OF_CLASSES,
    "multi_label_classification": (scores.scores_by_class, errors.confusion_by_label, *CONFIDENCE, *OF_ROWS),
    "object_detection": (scores.scores_by_class, detections.worst_images),
    "speech_recognition": (transcripts.frequent_errors, transcripts.worst_transcripts),
    "regression": (errors.predicted_and_true, scores.scores_by_part, errors.worst_rows),
    "named_entities": (
        scores.scores_by_class,
        entities.entity_errors,
        entities.type_confusion,
        entities.entity_examples,
        scores.scores_by_part,
    ),
}


def report(options: ReportArguments) -> Path:
    """Write the report of finished runs and return its path, which is printed.

    Raises:
        ValueError: a folder holds no finished run, an option names what is not there, or matplotlib is missing.
    """
    runs = open_runs(options)
    path = Path(options.output) if options.output else Path(options.runs[0]) / "report.html"
    write_text(path, page_of_runs(runs))
    print(f"Wrote {path}.")
    return path


def page_of_runs(runs: Sequence[FinishedRun]) -> str:
    """Return the page of runs."""
    environment = Environment(
        loader=FunctionLoader(source_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_own_ids"] = with_own_ids
    compared = side_by_side(runs) if len(runs) > 1 else None
    shown = [
        {
            "number": number,
            "run": run,
            "lead": lead(run),
            "headlines": scores.headlines(run),
            "sections": sections_of(run),
            "missing": run.missing if has_answers(run) else "",
        }
        for number, run in enumerate(runs, start=1)
    ]
    return environment.get_template("page.html").render(runs=shown, compared=compared, style=source_of("page.css"))


def lead(run: FinishedRun) -> str:
    """Return in a sentence what was tuned on what, and what is looked at."""
    given, rows = run.results["arguments"], run.scored["rows"]
    task = TASK_TITLES.get(run.results["task"], run.results["task"])
    problem = (
        ""
        if run.problem in ("named_entities", "object_detection", "speech_recognition")
        else f" ({run.problem.replace('_', ' ')})"
    )
    return (
        f"{task}{problem}: {one_line(last_part(given['model']))}, tuned by {given.get('tuning', 'full')}. "
        f"Below are the scores on {rows:,} rows of {last_part(run.split)}."
    )


def source_of(name: str) -> str:
    """Return the text of a file that lies beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def has_answers(run: FinishedRun) -> bool:
    """Return whether there are predictions, which a task of one's own need not write."""
    return "predictions_file" in run.scored


def sections_of(run: FinishedRun) -> list[Section]:
    """Return the sections that are defined for a run; those on rows are left out where these cannot be read."""
    middle = (*SECTIONS.get(run.problem, ()), attention.looked_at) if has_answers(run) else ()
    builds = [*BEGINNING, *middle, background.data_section, background.settings_section]
    need_rows = (*OF_ROWS, detections.worst_images, transcripts.worst_transcripts)
    built = [build(run) for build in builds if build not in need_rows or not run.missing]
    return [section for section in built if section is not None]
