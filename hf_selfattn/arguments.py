"""The arguments of a recipe: a YAML file, then `key=value` or `--key value` on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments

PathSpec = str | list[str]
AnyArguments = TypeVar("AnyArguments", bound="RecipeArguments")


@dataclass
class RecipeArguments:
    """What a recipe is told. Every option of `transformers.TrainingArguments` may stand beside these.

    Args:
        model: backbone to tune: a name on the hub or a folder.
        output_dir: folder of the run; it takes the model, the results and the checkpoints.
        train, validation, test: files, globs or lists of them (CSV, TSV, JSON, JSONL, Parquet, Arrow, compressed).
        dataset, dataset_config, revision: a data set on the hub or a folder of `save_to_disk` instead of files.
        test_files: further test sets by name.
        text_column, text_pair_column, label_column: column names; well-known ones are found.
        problem: `single_label_classification`, `multi_label_classification`, `regression` or `ordinal`; detected from
            the labels where it is not given.
        label_names: the labels in the order wanted.
        on_bad_row: `error`, or `drop` to leave bad rows out and count them.
        deduplicate: drop repeated training rows, and training rows that stand in an evaluation split.
        group_column: rows of one group never stand on both sides of a split that is made here.
        streaming: read the rows of train while training, for data that no memory holds (docs/scaling.md); needs
            `max_steps` and a validation split.
        streaming_buffer: rows of a stream among which the next one is drawn at random.
        validation_fraction: share of the training rows that becomes the validation split where none is given.
        sample_tokens: in training, read of a longer text one random excerpt of so many tokens, another every epoch; 0
            reads all. Evaluation and the tuned model read every text whole.
        standardise: before training, set mean and scale of the features that the heads read, on a few training rows.
        tuning: `lora` trains low-rank adapters and the heads, `full` everything, `probe` the heads alone on the
            features of a frozen backbone, `probe+lora` the heads so first, and then both from there.
        probe_epochs: length of the first phase of `probe+lora`; where it is not given, that of the second.
        probe_learning_rate: of the first phase; where it is not given, the default of `probe` tuning.
        feature_cache: with `probe` tuning, folder that takes the backbone's features, which are computed once; `true`
            is one in the cache of Datasets, which all runs share, `false` runs the backbone in every step instead.
        feature_dtype: the features are stored in `float16`, `float32`, or `int8` with one scale per token; `bfloat16`
            also computes them so, in half of the time on a processor that has it, and less precisely.
        save: with `lora` and `probe+lora` tuning, `merged` saves a whole model, the adapters merged into it; `adapter`
            the adapter and the heads alone, in a few MB. Scores are those of what is saved.
        quantization: `int8` or `nf4` keeps the backbone's weights in 8 or 4 bits (QLoRA; package bitsandbytes). It
            needs `tuning: lora` and `save: adapter`.
        lora: options of `peft.LoraConfig`, such as `r` and `target_modules`.
        heads: fields of `SelfAttnConfig`.
        backbone: fields of the backbone's own configuration to change.
        loss: `cross_entropy` or `focal`; `ordinal` adds the squared earth mover's distance and is the default for
            ordinal problems.
        class_weights: `balanced` weighs a class by the inverse of its frequency.
        focal_gamma: exponent of the focal loss.
        layer_decay: factor of the learning rate from one layer of the backbone to the one below, with `full` tuning.
        heads_learning_rate: of the attention heads and the task head; with `probe` tuning, which trains nothing else,
            of the attention heads. Where it is not given, .3 of `learning_rate`; `learning_rate` itself with `full`
            tuning and for a tagger's probe. In the first phase of `probe+lora` they have that phase's.
        calibrate: fit temperature and thresholds on the validation split and store them in the model.
        seeds: train as many times, with the seeds `seed`, `seed` + 1 and so on; mean and deviation are reported.
        folds: cross-validate: every row of train is tested once.
        model_revision: branch, tag or commit of the backbone.
        selection_metric: metric of the validation split by which the best checkpoint is kept.
        early_stopping_patience: evaluations without gain after which training ends; 0 never stops early.
        baseline: score TF-IDF with a linear model on the same rows beside the model.
        lexicon: score the VADER sentiment lexicon, too (package vaderSentiment).
        neutral_band: make polarity classes of a rated valence; nearer to 0 than this is neutral. With
            `problem: regression` the valence is learned, and the classes that follow from it are scored as well.
        neutral: `drop` leaves neutral texts out, `class` keeps them as a class.
        search: search hyper-parameters on the validation split (package optuna): `trials`, `space` and perhaps
            `pruner` (`median` or `hyperband`) and `timeout` in seconds. The best settings are then trained and tested.
        sweep: lists of values by key: every combination is trained, and the best on the validation split is trained
            and tested; with `seed` among the keys the best in the mean over the seeds.
        check: report on the data and train nothing.
        hub_create_pr: with `push_to_hub`, propose the result instead of pushing it to the branch.
        hub_commit_message: of that push.
        hub_predictions: push the predictions row by row, too.
        options: options of `transformers.TrainingArguments`.
    """

    model: str = ""
    output_dir: str = ""
    train: PathSpec | None = None
    validation: PathSpec | None = None
    test: PathSpec | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    revision: str | None = None
    test_files: dict[str, Any] = field(default_factory=dict)
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    problem: str | None = None
    label_names: list[str] | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    deduplicate: bool = False
    group_column: str | None = None
    streaming: bool = False
    streaming_buffer: int = 1000
    validation_fraction: float = 0.1
    sample_tokens: int = 0
    standardise: bool = True
    tuning: Literal["probe", "lora", "probe+lora", "full"] = "lora"
    probe_epochs: float | None = None
    probe_learning_rate: float | None = None
    feature_cache: str | bool = True
    feature_dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    save: Literal["merged", "adapter"] = "merged"
    quantization: Literal["none", "int8", "nf4"] = "none"
    lora: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    loss: str | None = None
    class_weights: Literal["balanced"] | None = None
    focal_gamma: float = 2.0
    layer_decay: float = 1.0
    heads_learning_rate: float | None = None
    calibrate: bool = True
    seeds: int = 1
    folds: int = 0
    model_revision: str | None = None
    selection_metric: str | None = None
    early_stopping_patience: int = 0
    baseline: bool = True
    lexicon: bool = False
    neutral_band: float | None = None
    neutral: Literal["drop", "class"] = "drop"
    search: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    check: bool = False
    hub_create_pr: bool = False
    hub_commit_message: str | None = None
    hub_predictions: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            setattr(self, name, _checked(name, getattr(self, name), hint))
        if self.save == "adapter" and not self.trains_lora:
            raise ValueError(
                f"save='adapter' needs tuning='lora' or 'probe+lora'; with tuning={self.tuning!r} there is no adapter."
            )
        if self.caches_features and (self.streaming or self.sample_tokens):
            given = "streaming=true" if self.streaming else f"sample_tokens={self.sample_tokens}"
            raise ValueError(
                f"tuning={self.tuning!r} keeps the features of whole rows, which {given} does not read. Leave that "
                "out, or set feature_cache=false to run the backbone in every step."
            )
        if self.quantization != "none" and (self.save, self.tuning) != ("adapter", "lora"):
            raise ValueError(
                f"quantization={self.quantization!r} needs save='adapter' and tuning='lora': an adapter cannot be "
                "merged into weights of few bits without loss, and features are kept of whole weights only."
            )
        self._check_first_phase()

    def _check_first_phase(self) -> None:
        for name in ("probe_epochs", "probe_learning_rate"):
            value = getattr(self, name)
            if value is not None and self.tuning != "probe+lora":
                raise ValueError(f"{name}={value} says nothing with tuning={self.tuning!r}; it needs 'probe+lora'.")
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0.")
        if self.probe_epochs is not None and self.streaming:
            raise ValueError(
                f"probe_epochs={self.probe_epochs}, but with streaming=true an epoch has no end. Leave it out: each "
                "phase makes max_steps."
            )

    @property
    def trains_lora(self) -> bool:
        """Whether there are adapters in the end."""
        return self.tuning in ("lora", "probe+lora")

    @property
    def caches_features(self) -> bool:
        """Whether the backbone runs once, before the heads train."""
        return self.tuning in ("probe", "probe+lora") and bool(self.feature_cache)

    def without_places(self) -> dict[str, Any]:
        """Return what decides the outcome of a run: every argument but the places that it writes to, and no token."""
        own = {name: value for name, value in asdict(self).items() if not is_place(name)}
        own["feature_cache"] = bool(self.feature_cache)
        return {**own, "options": {name: value for name, value in self.options.items() if not is_place(name)}}


def is_place(name: str) -> bool:
    """Return whether an argument says where or how the outcome of a run is made, not what it is."""
    return name in ("output_dir", "check", "push_to_hub", "auto_find_batch_size") or name.startswith("hub_")


@dataclass
class NerArguments(RecipeArguments):
    """What the recipe for named entities is told. Arguments that speak of texts with one label each are refused.

    Args:
        token_column, tag_column: names, or numbers of the columns of a column file; found where not given.
        span_column: character spans of `text_column`, instead of tokens and tags.
        document_column: the id of a row's document.
        scheme: of the tags, such as `IOB2`; detected where it is not given.
        tag_names: the names of integer tags that have none.
        entity_types: all types, where train does not have them all.
        on_broken_tag: `repair` reads broken tags as conlleval does, or `error`.
        on_cut_word: `error`, or `widen` a span that cuts a word to the whole word.
        context: the model reads a `sentence` at a time, or a `document`; scores are those of the sentences.
    """

    token_column: str | int | None = None
    tag_column: str | int | None = None
    span_column: str | None = None
    document_column: str | None = None
    scheme: str | None = None
    tag_names: list[str] | None = None
    entity_types: list[str] | None = None
    on_broken_tag: Literal["repair", "error"] = "repair"
    on_cut_word: Literal["error", "widen"] = "error"
    context: Literal["sentence", "document"] = "sentence"
    calibrate: bool = False
    baseline: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in fields(self):
            if item.name in NOT_OF_TAGS and getattr(self, item.name) != item.default:
                raise ValueError(f"{item.name} says nothing to the recipe for named entities. Leave it out.")


NOT_OF_TAGS = (
    "text_pair_column",
    "label_column",
    "problem",
    "label_names",
    "deduplicate",
    "group_column",
    "streaming",
    "streaming_buffer",
    "loss",
    "class_weights",
    "focal_gamma",
    "calibrate",
    "folds",
    "baseline",
    "lexicon",
    "neutral_band",
    "neutral",
)


def parse_arguments(
    words: Sequence[str],
    required: Sequence[str] = ("model", "output_dir"),
    kind: type[AnyArguments] = RecipeArguments,  # type: ignore[assignment]  # mypy knows no default of a type variable
) -> AnyArguments:
    """Read the arguments of a recipe from the command line.

    Raises:
        ValueError: names the file or word, and the nearest valid key.
    """
    settings: dict[str, Any] = {}
    for key, value in _settings(list(words)):
        _assign(settings, key, value)
    return build_arguments(settings, required, kind)


def build_arguments(
    settings: dict[str, Any],
    required: Sequence[str] = ("model", "output_dir"),
    kind: type[AnyArguments] = RecipeArguments,  # type: ignore[assignment]  # mypy knows no default of a type variable
) -> AnyArguments:
    """Divide settings into the recipe's own and those of `TrainingArguments`.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or a required argument that is missing.
    """
    own = {item.name for item in fields(kind)} - {"options"}
    trainer = {item.name for item in fields(TrainingArguments) if item.init}
    options: dict[str, Any] = dict(settings.get("options") or {})
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key in own:
            arguments[key] = value
        elif key in trainer:
            options[key] = _checked_option(key, value)
        elif key != "options":
            near = difflib.get_close_matches(key, sorted(own | trainer), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The recipe's own arguments: {', '.join(sorted(own))}."
            raise ValueError(f"There is no argument {key!r}.{hint}")
    result = kind(**arguments, options=options)
    for name in required:
        if not getattr(result, name):
            raise ValueError(f"The argument {name!r} is missing. Give it in the YAML file or as {name}=VALUE.")
    return result


def _settings(words: list[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    while words:
        word = words.pop(0)
        bare = word.removeprefix("--")
        if word.endswith((".yaml", ".yml")) and "=" not in word:
            pairs += read_yaml(Path(word)).items()
        elif "=" in bare:
            key, value = bare.split("=", 1)
            pairs.append((key, _value(word, value)))
        elif word.startswith("--"):
            has_value = bool(words) and not words[0].startswith("--") and "=" not in words[0]
            pairs.append((bare, _value(word, words.pop(0)) if has_value else True))
        else:
            raise ValueError(f"Cannot read the argument {word!r}. Give a .yaml file, key=value or --key value.")
    return [(key.replace("-", "_"), value) for key, value in pairs]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file.

    Raises:
        ValueError: if the file is missing, does not parse, or is no mapping.
    """
    if not path.is_file():
        raise ValueError(f"There is no settings file {path}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, but a mapping of `key: value` lines is needed.")
    return content


def _value(word: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"The value in {word!r} is not valid YAML: {error}") from error


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{key!r} reaches inside {part!r}, which is {settings!r} and no mapping.")
    settings[last] = value


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return the value in its declared type, or raise a ValueError that names it."""
    origin, choices = get_origin(hint), get_args(hint)
    kinds = choices if origin is not None and origin not in (dict, list, Literal) else (hint,)
    literal = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
    if literal is not None:
        if value not in literal and not (value is None and type(None) in kinds):
            raise ValueError(f"{name}={value!r} is unknown; it is {' or '.join(map(repr, literal))}.")
        return value
    plain = tuple(get_origin(kind) or kind for kind in kinds)
    if float in plain and isinstance(value, (int, str)) and not isinstance(value, bool):
        value = _as_float(name, value)
    if isinstance(value, bool) and bool not in plain or not isinstance(value, plain):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in plain if kind is not type(None))
        raise ValueError(f"{name}={value!r} is {type(value).__name__}; it must be {names}.")
    return value


def _checked_option(name: str, value: Any) -> Any:
    """Return an option of `TrainingArguments`; YAML reads `1e-3` as text and `no` as false."""
    if value is False and name.endswith("_strategy"):
        return "no"
    default = next(item.default for item in fields(TrainingArguments) if item.name == name)
    if isinstance(default, float) and isinstance(value, str):
        return _as_float(name, value)
    return value


def _as_float(name: str, value: int | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name}={value!r} is no number.") from None
