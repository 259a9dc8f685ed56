"""Several runs side by side: their scores, and whether they differ on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from ..hub.results import RESULTS_FILE
from ..hub.sanitize import last_part
from ..hub.summary import overall_scores, with_interval
from ..metrics import PairedTest, compare, paired_bootstrap_spans
from ..metrics.detection import paired_bootstrap_boxes
from .blocks import Block, Figures, Section, Table, Text, in_digits
from .plots import interval_plot
from .runs import FinishedRun
from .scores import HEADLINES, metric_name


def side_by_side(runs: Sequence[FinishedRun]) -> Section:
    """Return the scores of several runs on the splits that all have, and paired tests against the first run."""
    shared = [name for name in runs[0].results["splits"] if all(name in run.results["splits"] for run in runs)]
    said = "Intervals that overlap do not say that two runs are alike: the paired tests compare them row by row."
    blocks: list[Block] = [Text(said)]
    main = HEADLINES.get(runs[0].problem, ("",))[0]
    names = [run.name for run in runs]
    for split in shared:
        scores = [overall_scores(run.results["splits"][split]) for run in runs]
        metrics = [metric for metric in scores[0] if all(metric in of for of in scores)]
        rows = []
        for metric in metrics:
            values = [of[metric]["value"] for of in scores]
            spread = [f"{fmean(values):.3f} ± {stdev(values):.3f}"] if len(runs) > 2 else []
            rows.append([metric_name(metric), *(with_interval(of[metric]) for of in scores), *spread])
        head = ["score", *names, *(["mean ± deviation"] if len(runs) > 2 else [])]
        if main in metrics:
            series, caption = {main: [of[main] for of in scores]}, f"{metric_name(main)} on {last_part(split)}."
            plot = interval_plot(names, series, caption, title=last_part(split), x=metric_name(main))
            blocks.append(Figures([plot]))
        blocks.append(Table(f"{last_part(split)}: scores with 95 % intervals", head, rows))
        blocks += paired_tests(runs, split)
    return Section("side-by-side", "Side by side", blocks)


def paired_tests(runs: Sequence[FinishedRun], split: str) -> Iterator[Block]:
    """Yield the tests of each run against the first one on a split, or why there is none."""
    rows = []
    for run in runs[1:]:
        try:
            found = [paired_test(run, runs[0], metric, split) for metric in HEADLINES.get(run.problem, ())]
        except ValueError as error:
            said = str(error).replace(str(run.folder), run.name).replace(str(runs[0].folder), runs[0].name)
            yield Text(f"There is no paired test of {run.name} on {last_part(split)}: {said}")
            continue
        for test in found:
            interval = f"{test.low:+.3f} to {test.high:+.3f}"
            difference = f"{test.difference:+.3f}"
            values = in_digits(test.value_b), in_digits(test.value_a)
            rows.append(
                [f"{run.name}: {metric_name(test.metric)}", *values, difference, interval, f"{test.p_value:.4f}"]
            )
    if rows:
        head = ["run and score", runs[0].name, "this run", "difference", "95 % interval", "p"]
        yield Table(f"{last_part(split)}: paired bootstrap against {runs[0].name}", head, rows)


def paired_test(run: FinishedRun, other: FinishedRun, metric: str, split: str) -> PairedTest:
    """Return the paired test of two runs on a split."""
    if run.problem not in ("named_entities", "object_detection", "speech_recognition"):
        return compare(run.folder / RESULTS_FILE, other.folder / RESULTS_FILE, metric, split)
    if run.label_names != other.label_names:
        raise ValueError("their labels differ.")
    mine, theirs = run.answers_of(split), other.answers_of(split)
    if [answer["reference"] for answer in mine] != [answer["reference"] for answer in theirs]:
        raise ValueError("their rows differ.")
    if run.problem == "speech_recognition":
        from ..metrics.recognition import paired_bootstrap_recognition  # jiwer is not there for others

        first, second = ([answer["output"] for answer in answers] for answers in (mine, theirs))
        return paired_bootstrap_recognition([answer["reference"] for answer in mine], first, second, metric)
    if run.problem == "object_detection":
        truth = [answer["reference"] for answer in mine]
        first, second = ([answer["output"] for answer in answers] for answers in (mine, theirs))
        return paired_bootstrap_boxes(truth, first, second, run.label_names, metric)
    return paired_bootstrap_spans(
        run.tags_of(mine, "reference"),
        run.tags_of(mine, "output"),
        run.tags_of(theirs, "output"),
        run.label_names,
        metric,
        documents=[answer["document"] for answer in mine],
    )
