"""Going on from a model that was tuned before: its backbone and heads, and of its task head what the labels share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from ..adapters import merge_adapters
from ..arguments import ModelArguments
from ..modeling import modeling_selfattn
from ..modeling.configuration_selfattn import SelfAttnConfig
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification, SelfAttnPreTrainedModel
from .backbone import hub_options


def tuned_model(
    model_class: type[SelfAttnPreTrainedModel], arguments: ModelArguments, labels: dict[str, Any]
) -> tuple[PreTrainedModel, str]:
    """Return a model with the weights of one that was tuned before, uncalibrated, and a sentence on what it keeps.

    Labels of the same name keep their answers, others start fresh; of a model of another task backbone and heads are
    kept. An adapter is merged into its backbone.
    """
    before = open_tuned(model_class, arguments)
    config = copy.deepcopy(before.config)
    config.backbone_config.update(arguments.backbone)
    names = [labels["id2label"][number] for number in range(len(labels["id2label"]))]
    known = [before.config.id2label[number] for number in range(before.config.num_labels)]
    # The backbone is no longer the one that a name on the hub stands for.
    changes = {**labels, "temperature": 1.0, "thresholds": None, "backbone_hash": None}
    changes |= {"backbone_name_or_path": None, "backbone_revision": None, "adapter_subfolder": None}
    for name, value in {**changes, **arguments.heads}.items():
        setattr(config, name, value)
    model = model_class(config)
    try:
        model.base_model.load_state_dict(before.base_model.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"heads={arguments.heads} does not fit the heads of {arguments.model}, which are trained already. Leave "
            "heads out, or give the plain backbone as model."
        ) from error
    same_task = type(before) is model_class
    if same_task:
        copy_answers(before, model, known, names)
    if isinstance(model, SelfAttnForTokenClassification):
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, **hub_options(arguments))
        model.read_marks(tokenizer)
    kept = [name for name in names if same_task and name in known]
    fresh = [name for name in names if name not in kept]
    said = f"Training goes on from {arguments.model}, which was tuned before: backbone and heads are kept"
    said += f", and the answers for {', '.join(kept)}" if kept else ""
    return model, f"{said}; {', '.join(fresh)} start fresh." if fresh else f"{said}."


def open_tuned(model_class: type[SelfAttnPreTrainedModel], arguments: ModelArguments) -> PreTrainedModel:
    """Return the tuned model, whole, of the class that it was saved as."""
    options = hub_options(arguments)
    config = SelfAttnConfig.from_pretrained(arguments.model, **options)
    saved_as = getattr(modeling_selfattn, (config.architectures or [""])[0], model_class)
    if arguments.backbone_name_or_path is not None:
        options["backbone_name_or_path"] = arguments.backbone_name_or_path
    return merge_adapters(saved_as.from_pretrained(arguments.model, **options))


@torch.no_grad()
def copy_answers(before: PreTrainedModel, model: PreTrainedModel, known: list[str], names: list[str]) -> None:
    """Copy what stands above backbone and heads; of what belongs to labels, the part of those that both know."""
    shared = [name for name in names if name in known]
    theirs, ours = [known.index(name) for name in shared], [names.index(name) for name in shared]
    state = dict(before.named_parameters())
    for name, value in model.named_parameters():
        if name.startswith(f"{model.base_model_prefix}.") or name not in state:
            continue
        part, places = state[name], []
        for axis, (old, new) in enumerate(zip(part.shape, value.shape, strict=True)):
            more = old - len(known)  # class queries have one more, for all labels
            if more == new - len(names) and more in (0, 1):
                part = part.index_select(axis, torch.tensor([*theirs, *[len(known)] * more]))
                places.append(torch.tensor([*ours, *[len(names)] * more]))
            else:
                places.append(torch.arange(new))
        value[torch.meshgrid(*places, indexing="ij")] = part
