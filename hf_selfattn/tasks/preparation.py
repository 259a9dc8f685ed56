"""What a run needs before it trains: its data, its backbone and its model, as the arguments name them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..adapters import tune
from ..arguments import NerArguments, RecipeArguments
from ..data import (
    ClassificationData,
    check_classification,
    deduplicate,
    format_report,
    load_splits,
    make_validation,
    prepare_classification,
)
from ..data.polarity import to_polarity
from ..modeling.configuration_selfattn import backbone_window
from ..modeling.modeling_selfattn import SelfAttnForSequenceClassification
from .task import label_options

# Dropout there keeps attention from its fused kernel, by the name it has in the families' configurations.
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
# Of the backbone's hidden layers, how many a probe mixes.
MIXED_LAYERS = 4
# First weights of the attentions in the sum of a tagger's probe. Other probes start at 0, because sentiment loses in
# other domains where they start higher (benchmarks/LOG.md).
TAGGER_FUSION = 0.1


def load_data(arguments: RecipeArguments) -> ClassificationData:
    """Load the splits that the arguments name and check them."""
    with PartialState().local_main_process_first():
        splits, notes = raw_splits(arguments), []
        if arguments.neutral_band is not None and arguments.problem != "regression":
            splits, note = to_polarity(
                splits, arguments.neutral_band, arguments.neutral, arguments.text_column, arguments.label_column
            )
            notes.append(note)
        data = prepare_classification(
            splits,
            on_bad_row=arguments.on_bad_row,
            keep_columns=[arguments.group_column] if arguments.group_column else [],
            **column_options(arguments),
        )
        data.notes[:0] = notes
    return deduplicate(data) if arguments.deduplicate else data


def raw_splits(arguments: RecipeArguments) -> DatasetDict:
    """Read the splits that the arguments name, as they are."""
    return load_splits(
        train=arguments.train,
        validation=arguments.validation,
        test=arguments.test,
        dataset=arguments.dataset,
        dataset_config=arguments.dataset_config,
        revision=arguments.revision,
        extra=arguments.test_files or None,
    )


def column_options(arguments: RecipeArguments) -> dict[str, Any]:
    """Return what the user said of the columns and labels."""
    names = ("text_column", "text_pair_column", "label_column", "problem", "label_names")
    return {name: getattr(arguments, name) for name in names}


def with_validation(arguments: RecipeArguments, data: ClassificationData) -> ClassificationData:
    """Return the data with a validation split, taken from train where there is none."""
    if "validation" in data.splits:
        return data
    data = make_validation(
        data, fraction=arguments.validation_fraction, seed=seed_of(arguments), group_column=arguments.group_column
    )
    say(data.notes[-1])
    return data


def seed_of(arguments: RecipeArguments) -> int:
    """Return the seed of a run."""
    return int(arguments.options.get("seed", 42))


def say(text: str) -> None:
    """Print a line on the main process."""
    PartialState().print(text, flush=True)


def hub_options(arguments: RecipeArguments) -> dict[str, str]:
    """Return what every download of the backbone has in common."""
    return {"revision": arguments.model_revision} if arguments.model_revision else {}


def open_backbone(arguments: RecipeArguments) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the backbone.

    Raises:
        ValueError: if there is no such backbone.
    """
    options = hub_options(arguments)
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        return config, AutoTokenizer.from_pretrained(arguments.model, **options)
    except OSError as error:
        raise ValueError(
            f"The backbone model={arguments.model!r} cannot be opened. Give a name on the hub or a folder with "
            f"config.json, weights and tokenizer. {error}"
        ) from error


def build_model(
    arguments: RecipeArguments, data: ClassificationData, backbone_config: PreTrainedConfig
) -> torch.nn.Module:
    """Return the model that trains: fresh heads on the backbone, with adapters where they are asked for.

    Dropout inside the backbone's attention is off unless `backbone` sets it: it keeps attention from its fused
    kernel, which costs more than half of a step on 512 tokens, and the heads have their own.
    """
    model = SelfAttnForSequenceClassification.from_backbone(
        arguments.model,
        **backbone_settings(arguments, backbone_config),
        **head_settings(arguments, backbone_config),
        **label_options(data),
    )
    return tune(model, arguments.tuning, "SEQ_CLS", **arguments.lora)


def backbone_settings(arguments: RecipeArguments, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return how a model opens its backbone.

    Raises:
        ValueError: for 4 bits without an accelerator: on a CPU bitsandbytes cannot train after an evaluation.
    """
    if arguments.quantization == "nf4" and not torch.accelerator.is_available():
        raise ValueError("quantization='nf4' trains on an accelerator only, and here is none. Set quantization=int8.")
    no_dropout = {name: 0.0 for name in ATTENTION_DROPOUT_FIELDS if hasattr(backbone_config, name)}
    return {
        "hub_options": hub_options(arguments),
        "backbone_options": {**no_dropout, **arguments.backbone},
        "backbone_quantization": arguments.quantization,
    }


def head_settings(arguments: RecipeArguments, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of the heads. A probe mixes the last `MIXED_LAYERS` layers unless `heads` says how many.

    The last layer of a frozen backbone is made for what it was trained on, and its last four layers together say more
    of another task (Devlin et al., 2019, section 5.3; benchmarks/LOG.md). A tagger's probe reads its attentions from
    the first step on, with `TAGGER_FUSION`.
    """
    if arguments.tuning not in ("probe", "probe+lora"):
        return arguments.heads
    changed = copy.deepcopy(backbone_config)
    changed.update(arguments.backbone)
    num_layers = getattr(changed, "num_hidden_layers", None) or 1  # as in `SelfAttnConfig`
    start = {"fusion_init": TAGGER_FUSION} if isinstance(arguments, NerArguments) else {}
    return {"num_mixed_layers": min(MIXED_LAYERS, num_layers), **start, **arguments.heads}


def report_on_data(
    arguments: RecipeArguments,
    check: Callable[..., dict[str, Any]] = check_classification,
    columns: Callable[[Any], dict[str, Any]] = column_options,
) -> dict[str, Any]:
    """Print the report on the data, bad rows and all, and return it."""
    backbone_config, tokenizer = open_backbone(arguments)
    window = backbone_window(backbone_config) or tokenizer.model_max_length
    report = check(raw_splits(arguments), tokenizer, window, **columns(arguments))
    say(format_report(report))
    return report
