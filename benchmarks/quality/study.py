"""What the results files of the study say: scores, gains and processor time of a row, for tables and plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from hf_selfattn.metrics import LOWER_IS_BETTER

from ..records import RESULTS, Record, home_of, read_results

ALPHA = 0.05
MIXED_LAYERS = 4  # of a frozen backbone, where a run says nothing else
LINEAR = ("tfidf", "embedding-lr")
MISLABELLED = "†"  # mark of taggers that were taught labels at later parts of a word, too

# The rows of the study, each with its title.
SYSTEMS = {
    "tfidf": "TF-IDF, logistic regression",
    "embedding-lr": "sentence embedding, logistic regression",
    "setfit": "SetFit",
    "stock-frozen": "stock head, frozen backbone",
    "stock-lora": "stock head, LoRA",
    "stock-lora-quarter-rate": "stock head, LoRA at a quarter of the rate",
    "stock-lora-all": "stock head, LoRA on every linear layer",
    "stock-full": "stock head, full",
    "max-pool": "MaxPoolBERT head, full",
    "probe": "ours, probe",
    "probe-sweep": "ours, probe, the better of two rates",
    "lora": "ours, LoRA",
    "lora-quarter-rate": "ours, LoRA at a quarter of the rate",
    "lora-class-queries": "ours, LoRA, class queries, standardised",
    "lora-mean": "ours, LoRA, mean, standardised",
    "lora-query-value": "ours, LoRA on queries and values",
    "lora-no-heads": "ours, LoRA, without attention heads",
    "lora-document": "ours, LoRA, whole documents",
    "lora-crf": "ours, LoRA, CRF",
    "probe+lora": "ours, probe + LoRA",
    "contrastive": "ours, contrastive phase, then probe",
    "full": "ours, full",
}
ABLATIONS = {
    "probe": "probe, as it is",
    "probe-no-self": "without self-attention",
    "probe-no-grouped": "without grouped attention",
    "probe-no-heads": "without both",
    "probe-one-rate": "attention heads at the rate of the task head",
    "probe-slow-attention": "attention heads at .3 of the rate",
    "probe-fixed-fusion": "weights of the sum fixed at .1",
    "probe-from-tenth": "weights of the sum from .1",
    "probe-from-zero": "weights of the sum from 0",
    "probe-no-mix": "last layer instead of four mixed",
    "probe-mean": "mean instead of class queries",
    "probe-cls": "first token instead of class queries",
    "probe-random-prototypes": "random prototypes",
    "probe-moving-prototypes": "prototypes that follow the tokens",
}

# Heads on the kept features of a frozen image backbone.
IMAGE_HEADS = {
    "linear-probe": "linear probe on the mean of the last map",
    "linear-probe-mirrored": "the same, images also mirrored",
    "neighbours": "nearest neighbours",
    "neighbours-mirrored": "nearest neighbours, images also mirrored",
    "attention-pool": "attention pooling (EP)",
    "probe": "ours",
    "probe-no-self": "without self-attention",
    "probe-no-grouped": "without grouped attention",
    "probe-no-heads": "without both",
    "probe-slow": "at .3 of the rate",
    "probe-decay": "weight decay of 5 instead of .01",
    "probe-no-mix": "last layer instead of six mixed",
    "probe-no-mix-slow": "last layer, at .3 of the rate",
    "probe-from-zero": "last layer, weights of the sum from 0",
    "probe-mean": "last layer, weights of the sum from 0, mean instead of class queries",
}

# Heads on the kept states of a frozen sound backbone, and recognisers on those of Whisper tiny.en.
SOUND_HEADS = {
    "spectrogram-probe": "logistic regression on log-mel bands, mean and deviation, without backbone",
    "linear-probe": "linear probe on the mean of the last layer",
    "deviation-probe": "linear probe on mean and deviation of the last layer",
    "neighbours": "nearest neighbours",
    "probe": "ours",
    "probe-augmented": "ours, masked spans",
    "probe-no-self": "without self-attention",
    "probe-no-grouped": "without grouped attention",
    "probe-no-mix": "last layer instead of four mixed",
    "linear-start": "ours, started as a linear model",
}
RECOGNISERS = {
    "linear": "linear CTC head",
    "recurrent": "bidirectional LSTM",
    "recurrent-augmented": "bidirectional LSTM, masked spans",
    "probe": "ours",
    "probe-wide": "ours, a convolution of 31 frames instead of 11",
    "probe-dropped": "ours, dropout of .3 in the heads instead of .1",
    "probe-no-convolution": "without convolution",
    "probe-no-augmentation": "without masked spans",
    "probe-no-self": "without self-attention",
    "probe-no-grouped": "without grouped attention",
    "dropped-no-self": "with that dropout, without self-attention",
    "dropped-no-grouped": "with that dropout, without grouped attention",
    "recurrent-dropout": "bidirectional LSTM, masked spans, dropout of .5 instead of .3",
    "recurrent-half-rate": "bidirectional LSTM, masked spans, half the rate",
}
# Detectors on the kept maps of a frozen image backbone.
DETECTORS = {
    "retina": "head after RetinaNet",
    "no-heads": "ours without attention over the regions",
    "heads": "ours",
}
# Networks for images that train whole.
WHOLE_IMAGES = {"stock-full": "stock `AutoModelForImageClassification`, full", "full": "ours, full"}
# Probes that start from a linear model.
LINEAR_STARTS = {
    "linear-probe": "logistic regression on the mean of the features",
    "embedding-lr": "logistic regression on the sentence embedding",
    "probe": "ours, probe",
    "probe-plain": "ours, probe, last layer",
    "probe-linear": "ours, `linear_start`",
    "probe-linear-no-heads": "ours, `linear_start`, without both attentions",
}


@dataclass(frozen=True)
class Column:
    """A test set of the study."""

    experiment: str
    title: str
    metric: str
    against: str = "stock-lora"
    split: str = "test"
    later: str = ""  # an experiment with further rows on the same data


FULL = (
    Column("study-r8", "R8", "macro_f1"),
    Column("study-polarity", "movies", "accuracy"),
    Column("study-polarity", "→ Amazon", "accuracy", split="amazon"),
    Column("study-polarity", "→ NYT", "accuracy", split="nyt"),
    Column("study-valence", "valence", "pearson"),
    Column("study-valence", "→ Amazon", "pearson", split="amazon"),
    Column("study-valence", "→ NYT", "pearson", split="nyt"),
    Column("study-reviews", "reviews", "accuracy"),
    Column("study-conll2003", "CoNLL", "f1"),
)
ABLATED = tuple(replace(column, against="probe") for column in FULL)
MPNET = tuple(replace(column, experiment=column.experiment.replace("study-", "study-mpnet-")) for column in FULL)
FEW = tuple(
    Column(
        f"study-few-{task}-{count}",
        f"{title}, {count}",
        metric,
        "embedding-lr",
        later=f"study-contrastive-{task}-{count}",
    )
    for task, title, metric in (("bbc", "BBC", "accuracy"), ("r8", "R8", "macro_f1"), ("movies", "movies", "accuracy"))
    for count in (8, 16)
)
IMAGES = tuple(
    Column(f"image-{name}", title, "accuracy", "linear-probe")
    for name, title in (
        ("elpv", "ELPV"),
        ("elpv-mirrored", "ELPV, ours with the last layer, images also mirrored"),
        ("stamps", "stamps"),
        ("stamps-vgg16", "stamps, VGG16"),
        ("fashion", "Fashion-MNIST"),
    )
)
DETECTION = tuple(
    Column(f"detection-{name}", title, "map", "retina")
    for name, title in (("scenes", "stamp scenes"), ("trees", "trees"))
)
TUNED_IMAGES = (Column("image-full-stamps", "stamps, 128 pixels", "accuracy", "stock-full"),)
STARTED = (
    Column("linear-start-r8-8", "R8, 8 rows of each class", "macro_f1", "probe"),
    Column("linear-start-movies-8", "movies, 8 rows of each class", "accuracy", "probe"),
    Column("image-linear-stamps", "173 stamps", "accuracy", "linear-probe"),
)

SOUNDS = tuple(
    Column(f"languages-{name}", f"Whisper {title}", "accuracy", "linear-probe", later=later)
    for name, title, later in (("base", "base", ""), ("tiny-en", "tiny.en", "languages-tiny-en-linear"))
)
SPEECH = (Column("speech-asterisk", "word error rate", "wer", "recurrent-augmented", later="speech-asterisk-dropped"),)


def results_of(experiment: str) -> Record:
    """Return the results of an experiment, without runs where there are none."""
    path = RESULTS / f"{experiment}.json"
    file, _ = home_of(path)
    return results_at(path, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache
def results_at(path: Path, written: int) -> Record:
    """Return results as they were written at a time, for the many cells that ask for them."""
    return read_results(path)


def runs_of(column: Column, row: str) -> list[Record]:
    """Return the runs of a row, seed by seed."""
    runs = {**results_of(column.experiment)["runs"], **results_of(column.later)["runs"]}
    return [run for name, run in runs.items() if name.partition("-seed-")[0] == row]


def mean_score(column: Column, row: str) -> list[float] | None:
    """Return the mean over the seeds of the metric and of the two ends of its interval, or None without runs."""
    scores = [run["scores"][column.split][column.metric] for run in runs_of(column, row)]
    return [statistics.fmean(values) for values in zip(*scores, strict=True)] if scores else None


def gain_of(column: Column, row: str) -> Record | None:
    """Return the paired test of a row against the column's, or None where there is none."""
    where = "" if column.split == "test" else f" @ {column.split}"
    tests: Record = results_of(column.experiment).get("comparisons", {})
    later: Record = results_of(column.later).get("comparisons", {})
    test = tests.get(f"{row} - {column.against}{where}")
    return test or later.get(f"{row} - {column.experiment}/{column.against}{where}")


def has_learned(column: Column, row: str) -> bool:
    """Return whether a row is above the linear models on TF-IDF and on the sentence embeddings of MiniLM."""
    same_data = replace(column, experiment=column.experiment.replace("-mpnet", ""))
    score, *least = mean_score(column, row), *(mean_score(same_data, linear) for linear in LINEAR)
    return score is not None and all(floor is None or score[0] > floor[0] for floor in least)


def cell(column: Column, row: str) -> str:
    """Return the mean score of a row, and whether it is surely better or worse than the column's."""
    score, test = mean_score(column, row), gain_of(column, row)
    if score is None or is_left_out(column, row):
        return ""
    is_sure = test is not None and test["p_value"] < ALPHA and not is_left_out(column, column.against)
    sign = "" if not is_sure else " +" if is_gain(test or {}, column.metric) else " −"
    return f"{score[0]:.3f}{sign}"


def is_left_out(column: Column, row: str) -> bool:
    """Return whether a row of the study is a stock or peer head that was taught wrong labels, or has not learned."""
    is_peer = row.startswith(("stock", "max-pool")) and column.experiment.startswith("study-")
    return is_peer and (column.experiment.endswith("conll2003") or not has_learned(column, row))


def is_gain(test: Record, metric: str) -> bool:
    """Return whether the first of two systems that were compared is the better one."""
    return bool((test["difference"] > 0) != (metric in LOWER_IS_BETTER))


def cell_with_interval(column: Column, row: str) -> str:
    """Return a cell with the mean of the intervals of the runs."""
    score, shown = mean_score(column, row), cell(column, row)
    return "" if score is None else shown.replace(f"{score[0]:.3f}", with_interval(score))


def table(
    columns: tuple[Column, ...], rows: dict[str, str], corner: str, show: Callable[[Column, str], str] = cell
) -> list[str]:
    """Return a table in Markdown, without the rows and columns that have no result."""
    shown = [column for column in columns if any(runs_of(column, row) for row in rows)]
    if not shown:
        return []
    files = [home_of(RESULTS / f"{column.experiment}.json")[0].name for column in shown]
    titles = [f"[{column.title}](results/{file})" for column, file in zip(shown, files, strict=True)]
    lines = [f"| {' | '.join([corner, *titles])} |", "|---" * (len(shown) + 1) + "|"]
    for row, title in rows.items():
        cells = [show(column, row) for column in shown]
        if any(cells):
            lines.append(f"| {' | '.join([title, *cells])} |")
    return lines


def with_interval(score: list[float]) -> str:
    """Return a score for reading."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*score)


def tuning_seconds(column: Column, row: str) -> float | None:
    """Return the processor seconds that a row takes to tune on one thread, the median over its seeds.

    Features that an earlier run left in the cache are counted for every row that reads them: of all runs with the same
    layers, the greatest time that computing them took. A sweep counts with all of its trainings. Runs on a machine
    with a GPU say nothing of it; where there is no other, the answer is None.
    """
    greatest: dict[int, float] = {}
    for run in filter(is_on_processor, results_of(column.experiment)["runs"].values()):
        if (seconds := cache_seconds(run)) is not None:
            greatest[layers_of(run)] = max(greatest.get(layers_of(run), 0.0), seconds)
    timed = list(map(partial(with_cache, greatest), filter(is_on_processor, runs_of(column, row))))
    return statistics.median(timed) if timed else None


def is_on_processor(run: Record) -> bool:
    """Return whether a run trained on a machine without a GPU."""
    return not run["environment"]["accelerators"]


def with_cache(greatest: dict[int, float], run: Record) -> float:
    """Return the seconds of a run as if it had computed its features itself.

    Args:
        greatest: seconds that computing them took, by number of layers.
    """
    tried = sum(one["cpu_seconds"] for one in run.get("sweep", {}).get("runs", []))
    total, own = float(run["training"]["cpu_seconds"]) + tried, cache_seconds(run)
    return total if own is None else total - own + greatest[layers_of(run)]


def layers_of(run: Record) -> int:
    """Return how many hidden layers the heads of a probe read."""
    return int(run["arguments"]["heads"].get("num_mixed_layers", MIXED_LAYERS))


def cache_seconds(run: Record) -> float | None:
    """Return the seconds that a run spent on features that others can read, too, or None where there are none.

    Those of a backbone that the run itself has tuned are of use to no other.
    """
    training = run["training"]
    if "contrastive" in training.get("phases", {}):
        return None
    phase = training.get("phases", {}).get("probe", training)
    cache = phase.get("feature_cache")
    return None if cache is None else float(cache["cpu_seconds"])
