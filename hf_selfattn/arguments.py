"""The arguments of a run: small dataclasses, of which a task composes its own.

A function that reads one part alone takes that part: `open_backbone(arguments: ModelArguments)`.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from .settings import as_meant, read_words

PathSpec = str | list[str]
AnyArguments = TypeVar("AnyArguments", bound="Arguments")
PARSERS: dict[Any, Any] = {}  # of each kind of arguments, made once

# Options that a study of this project found useless, and what to do instead (benchmarks/LOG.md).
GONE = {
    "layer_decay": "Give learning_rate and heads_learning_rate.",
    "loss": "The problem decides. For rare classes give class_weights=balanced.",
    "focal_gamma": "Give class_weights=balanced.",
}

# Options of `TrainingArguments` that cannot work here: their values that do, why, and what to do instead.
UNUSABLE: dict[str, tuple[Any, str]] = {
    "prediction_loss_only": (False, "the checkpoint is picked by scores of the answers. Set selection_metric=loss"),
    "batch_eval_metrics": (False, "scores are those of all rows together. Leave it out"),
    "eval_do_concat_batches": (True, "scores are those of all rows together. Leave it out"),
    "remove_unused_columns": (True, "the collator reads what the model reads. Leave it out"),
    "dataloader_drop_last": (False, "every row of an evaluation is answered. Leave it out"),
    "metric_for_best_model": (None, "the scores of a task have names. Set selection_metric=NAME"),
    "greater_is_better": (None, "the metric says it. Set selection_metric=NAME"),
    "label_names": (None, "it would name the labels of the task. Leave options.label_names out"),
    "resume_from_checkpoint": (None, "the same command goes on by itself. Leave it out"),
    "do_train": (True, "a run trains. Leave it out"),
}


class Arguments(Protocol):
    """A dataclass of options, each with a default; `required` may name those that must be given."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass
class ModelArguments:
    """The backbone, and what stands on it.

    Args:
        model: backbone to tune, or a model that was tuned before, to go on from: a name on the hub or a folder.
        model_revision: branch, tag or commit of it.
        backbone_name_or_path: of an adapter that is to be tuned further, its backbone, where that was a folder.
        heads: fields of `SelfAttnConfig`, such as `heads.num_groups=32`.
        backbone: fields of the backbone's own configuration to change.
        quantization: `int8` or `nf4` keeps the backbone's weights in 8 or 4 bits (QLoRA; package bitsandbytes). It
            needs `tuning=lora` and `save=adapter`.
    """

    model: str = ""
    model_revision: str | None = None
    backbone_name_or_path: str | None = None
    heads: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    quantization: Literal["none", "int8", "nf4"] = "none"


@dataclass
class DataArguments:
    """The rows.

    Args:
        train: files, globs or lists of them (CSV, TSV, Excel, JSON, JSONL, Parquet, Arrow, column files, exports of
            annotation tools; compressed).
        validation: files of the validation split, or the split of `dataset` that is it, such as `validation_matched`;
            a part of train where there is none.
        test: files of the test split, or a split of `dataset`.
        test_files: further test sets by name: files or splits of `dataset`, such as `test_files.other=FILE`.
        dataset: a data set on the hub, or a folder of `save_to_disk`, instead of files.
        dataset_config: configuration of that data set.
        revision: branch, tag or commit of that data set.
        on_bad_row: `error`, or `drop` to leave bad rows out and count them.
        validation_fraction: share of the training rows that becomes the validation split where none is given.
    """

    train: PathSpec | None = None
    validation: PathSpec | None = None
    test: PathSpec | None = None
    test_files: dict[str, PathSpec] = field(default_factory=dict)
    dataset: str | None = None
    dataset_config: str | None = None
    revision: str | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    validation_fraction: float = 0.1


@dataclass
class TuningArguments:
    """What trains, and how.

    Args:
        tuning: `lora` trains low-rank adapters and the heads, `full` everything, `probe` the heads alone on the
            features of a frozen backbone, `probe+lora` the heads so first, and then both from there. `auto` tries
            several heads on such features, then ways to train all, and keeps what does best on the validation split.
        lora: options of `peft.LoraConfig`, such as `lora.r=8`.
        save: with `lora` and `probe+lora` tuning, `merged` saves a whole model, the adapters merged into it; `adapter`
            the adapter and the heads alone, in a few MB. Scores are those of what is saved.
        heads_learning_rate: of the attention heads and the task head; with `probe` tuning, which trains nothing else,
            of the attention heads. Where it is not given, .3 of `learning_rate`; `learning_rate` itself with `full`
            tuning and for a tagger's probe. In the first phase of `probe+lora` they have that phase's.
        probe_epochs: length of the first phase of `probe+lora`; where it is not given, that of the second. With
            `auto` that of each candidate.
        probe_learning_rate: of the first phase; where it is not given, the default of `probe` tuning. With `auto` of
            all candidates.
        contrastive_steps: of a phase before, in which the whole backbone learns to tell the classes of rows apart, 32
            rows a step; 20 with `tuning=probe` suit classes with few rows, 0 leaves it out. A probe then reads the
            last layer alone, unless `heads.num_mixed_layers` says otherwise.
        feature_cache: with `probe` tuning, folder that takes the backbone's features, which are computed once; `true`
            is one in the cache of Datasets, which all runs share, `false` runs the backbone in every step instead.
        feature_dtype: the features are stored in `float16`, `float32`, or `int8` with one scale per token; `bfloat16`
            also computes them so, in half of the time on a processor that has it, and less precisely.
        sample_tokens: in training, read of a longer text one random excerpt of so many tokens, another every epoch; 0
            reads all. Evaluation and the tuned model read every text whole.
        standardise: before training, set mean and scale of the features that the heads read, on a few training rows.
        linear_start: begin with the classifier that logistic or ridge regression finds on the means of the features
            of all training rows, its regularisation chosen on the validation split.
        selection_metric: metric of the validation split by which the best checkpoint is kept.
        early_stopping_patience: evaluations without gain after which training ends; 0 never stops early.
        budget_minutes: that training may take, evaluations on the validation split included; features that are
            computed before and scores after it come on top. Steps and learning rate follow it.
        seeds: train as many times, with the seeds `seed`, `seed` + 1 and so on; mean and deviation are reported.
        search: hyper-parameters to search on the validation split (package optuna): `trials`, `space`, and `storage`
            where several machines share one search. The best settings are then trained and tested.
        sweep: lists of values by key: every combination is trained, and the best on the validation split is trained
            and tested; with `seed` among the keys the best in the mean over the seeds.
    """

    tuning: Literal["probe", "lora", "probe+lora", "full", "auto"] = "lora"
    lora: dict[str, Any] = field(default_factory=dict)
    save: Literal["merged", "adapter"] = "merged"
    heads_learning_rate: float | None = None
    probe_epochs: float | None = None
    probe_learning_rate: float | None = None
    contrastive_steps: int = 0
    feature_cache: str | bool = True
    feature_dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    sample_tokens: int = 0
    standardise: bool = True
    linear_start: bool = False
    selection_metric: str | None = None
    early_stopping_patience: int = 0
    budget_minutes: float | None = None
    seeds: int = 1
    search: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)

    @property
    def trains_lora(self) -> bool:
        """Whether there are adapters in the end."""
        return self.tuning in ("lora", "probe+lora")

    @property
    def caches_features(self) -> bool:
        """Whether the backbone runs once, before the heads train."""
        return self.tuning in ("probe", "probe+lora", "auto") and bool(self.feature_cache)


@dataclass
class HubArguments:
    """What `push_to_hub=true` pushes, beside the options of `TrainingArguments` that begin with `hub_`.

    Args:
        hub_create_pr: propose the result instead of pushing it to the branch.
        hub_commit_message: first line of the commit.
        hub_predictions: push the predictions row by row, too.
    """

    hub_create_pr: bool = False
    hub_commit_message: str | None = None
    hub_predictions: bool = False


@dataclass
class RunArguments(HubArguments, TuningArguments, DataArguments, ModelArguments):
    """The run.

    Args:
        output_dir: folder of the run; it takes the model, the results and the checkpoints.
        check: report on the data and train nothing.
        grace_seconds: after Ctrl-C, SIGTERM or SIGUSR1, seconds that the running step may take until the run ends
            without a checkpoint of it; 0 waits for its end.
        options: options of `transformers.TrainingArguments`, each of which may also stand beside the others.
    """

    task: ClassVar[str]
    required: ClassVar[tuple[str, ...]] = ("model", "output_dir")

    output_dir: str = ""
    check: bool = False
    grace_seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.save == "adapter" and not self.trains_lora:
            raise ValueError(
                f"save='adapter' needs tuning='lora' or 'probe+lora'; with tuning={self.tuning!r} there is no adapter."
            )
        if self.caches_features and self.sample_tokens:
            raise ValueError(self.needs_whole_rows(f"sample_tokens={self.sample_tokens}"))
        if self.quantization != "none" and (self.save, self.tuning) != ("adapter", "lora"):
            raise ValueError(
                f"quantization={self.quantization!r} needs save='adapter' and tuning='lora': an adapter cannot be "
                "merged into weights of few bits without loss, and features are kept of whole weights only."
            )
        for name, (usable, why) in UNUSABLE.items():
            if self.options.get(name, usable) != usable:
                raise ValueError(f"{name}={self.options[name]} cannot be: {why}.")
        for name in ("probe_epochs", "probe_learning_rate"):
            value = getattr(self, name)
            if value is not None and self.tuning not in ("probe+lora", "auto"):
                raise ValueError(f"{name}={value} says nothing with tuning={self.tuning!r}; it needs 'probe+lora'.")
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0.")
        if self.contrastive_steps < 0:
            raise ValueError(f"contrastive_steps={self.contrastive_steps} must be 0 or more.")
        if self.contrastive_steps and (self.save == "adapter" or self.quantization != "none"):
            raise ValueError(
                f"contrastive_steps={self.contrastive_steps} trains the whole backbone, which save='adapter' and "
                "quantization keep as it was. Leave it out, or leave out both of them."
            )
        if self.tuning == "auto" and not self.caches_features:
            raise ValueError("tuning='auto' tries heads on kept features, and none are kept here. Set tuning=lora.")
        if self.tuning == "auto" and self.contrastive_steps:
            raise ValueError("tuning='auto' starts from the backbone as it is. Leave out contrastive_steps.")
        if self.budget_minutes is not None and self.budget_minutes <= 0:
            raise ValueError(f"budget_minutes={self.budget_minutes} must be above 0. Leave it out for no limit.")

    def needs_whole_rows(self, given: str) -> str:
        """Return the error for an option that does not read rows whole, as cached features do."""
        return (
            f"tuning={self.tuning!r} keeps the features of whole rows, which {given} does not read. Leave that "
            "out, or set feature_cache=false to run the backbone in every step."
        )

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.options.get("seed", 42))

    @property
    def makes_several_models(self) -> bool:
        """Whether the run trains several models that stand side by side."""
        return self.seeds > 1

    def without_places(self) -> dict[str, Any]:
        """Return what decides the outcome of a run: every argument but the places that it writes to, and no token."""
        own = {name: value for name, value in asdict(self).items() if not is_place(name)}
        own["feature_cache"] = bool(self.feature_cache)
        if own["search"]:
            own["search"] = {name: value for name, value in self.search.items() if name != "storage"}
        return {**own, "options": {name: value for name, value in self.options.items() if not is_place(name)}}


def is_place(name: str) -> bool:
    """Return whether an argument says where or how the outcome of a run is made, not what it is."""
    return name in ("output_dir", "check", "grace_seconds", "push_to_hub", "auto_find_batch_size") or name.startswith(
        "hub_"
    )


def parse_arguments(
    words: Sequence[str], kind: type[AnyArguments], places: Sequence[str] = (), program: str | None = None
) -> AnyArguments:
    """Read arguments from the command line; `--help` prints them all and ends the program.

    Args:
        words: paths of YAML files, `key=value`, `--key value`, `--key=value` or `--flag`; a later one wins. A dot
            reaches inside: `heads.num_groups=8`. Texts are taken as written; lists and mappings are YAML.
        kind: of the arguments: those of a run, or a dataclass of another command.
        places: arguments that may be given without their key, in this order; the last one may be a list.
        program: as the user called it.

    Raises:
        ValueError: names the file or word, and the nearest valid key.
    """
    open_end = bool(places) and get_origin(get_type_hints(kind)[places[-1]]) is list
    if {"--help", "-h"} & {*words}:
        shown = "".join(f" {place.upper()}" for place in places) + " ..." * open_end
        parser = parser_of(kind)
        parser.usage = f"{program or Path(sys.argv[0]).name}{shown} [SETTINGS.yaml ...] [KEY=VALUE ...]"
        parser.print_help()
        sys.exit()
    return build_arguments(read_words(words, places, open_end), kind)


def build_arguments(settings: dict[str, Any], kind: type[AnyArguments]) -> AnyArguments:
    """Return arguments of a kind, checked; those of a run take options of `TrainingArguments`, too.

    Args:
        settings: values by key.
        kind: of the arguments.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or a required argument that is missing.
    """
    own = {item.name for item in fields(kind)}
    trainer = training_options() if "options" in own else {}
    types = {**{name: hint for name, (hint, _) in trainer.items()}, **get_type_hints(kind)}
    own -= {"options"}
    settings = {str(key): as_meant(value, types.get(key, Any)) for key, value in settings.items()}
    options = {key: _option(key, value) for key, value in (settings.get("options") or {}).items()}
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if key in own:
            given[key] = value
        elif key in trainer:
            options[key] = _option(key, value)
        elif key != "options":
            raise ValueError(f"There is no argument {key!r}.{_hint(key, own | {*trainer}, own)}")
    for name in getattr(kind, "required", ()):
        if not given.get(name):
            raise ValueError(f"The argument {name!r} is missing. Give it as {name}=VALUE, or in a YAML file.")
    return kind(**_typed(given, kind), **({"options": options} if trainer else {}))


@cache
def training_options() -> dict[str, tuple[Any, Any]]:
    """Return type and default of every option of `transformers.TrainingArguments`, which is imported only here."""
    from transformers import TrainingArguments

    types = get_type_hints(TrainingArguments)
    return {item.name: (types[item.name], item.default) for item in fields(TrainingArguments) if item.init}


def parser_of(kind: type[Any]) -> Any:
    """Return a parser that knows the arguments of a kind, with help from the docstrings of the classes it has them of.

    Args:
        kind: of the arguments.
    """
    from jsonargparse import ArgumentParser

    if kind in PARSERS:
        return PARSERS[kind]
    about = f"{(kind.__doc__ or '').splitlines()[0]} KEY=VALUE and --KEY VALUE are the same"
    if "options" in {item.name for item in fields(kind)}:
        about += (
            "; a dot reaches inside, such as heads.num_groups=32. Every option of transformers.TrainingArguments may "
            "stand beside these"
        )
    parser = PARSERS[kind] = ArgumentParser(description=f"{about}.", exit_on_error=False)
    parts = [part for part in kind.__mro__ if part is not object]
    for part in reversed(parts):
        above = parts[: parts.index(part)]  # they may define a field anew
        mine = {name for name in part.__annotations__ if not any(name in other.__annotations__ for other in above)}
        parser.add_class_arguments(part, as_group=True, skip={item.name for item in fields(part)} - mine | {"options"})
    return parser


def _typed(given: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the values in their declared types, such as `1e-3`, which YAML reads as text."""
    parser = parser_of(kind)
    from jsonargparse import ArgumentError

    hints = get_type_hints(kind)
    # The parser would read the texts of a mapping as YAML.
    parsed = [name for name, value in given.items() if not (isinstance(value, dict) and hints[name] == dict[str, Any])]
    try:
        found = parser.parse_object({name: given[name] for name in parsed}).as_dict()
    except ArgumentError:
        for name in parsed:  # one after another, to find which it is
            try:
                parser.parse_object({name: given[name]})
            except ArgumentError as error:
                raise ValueError(f"{name}={given[name]!r} must be {_in_words(hints[name])}.") from error
        raise
    return {name: found[name] if name in parsed else value for name, value in given.items()}


def _in_words(hint: Any) -> str:
    """Return a type as a user would say it: `float`, `'lora' or 'full'`."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    parts = [part for part in get_args(hint) if part is not type(None)] if get_origin(hint) not in (dict, list) else []
    return " or ".join(map(_in_words, parts)) if parts else getattr(hint, "__name__", str(hint))


def nearest(key: str, known: Iterable[str]) -> str:
    """Return what an error on an unknown key says of the one that is most like it, if any is."""
    near = difflib.get_close_matches(str(key), sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _hint(key: str, known: Iterable[str], own: Iterable[str]) -> str:
    if key in GONE:
        return f" It was measured and left. {GONE[key]}"
    return nearest(key, known) or f" The arguments are: {', '.join(sorted(own))}."


def _option(name: str, value: Any) -> Any:
    """Return an option of `TrainingArguments`; YAML reads `1e-3` as text and `no` as false."""
    if value is False and name.endswith("_strategy"):
        return "no"
    _, default = training_options()[name]
    if isinstance(default, float) and isinstance(value, str):
        if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
            raise ValueError(f"{name}={value!r} is no number.")
        return float(value)
    return value
