"""The phases of a training: one, or with `tuning: probe+lora` the heads on kept features and then LoRA from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.dynamic_module_utils import custom_object_save

from ..adapters import add_lora, base_model
from ..cpu_attention import use_fast_attention
from ..files import whole_or_nothing
from ..machine import from_main
from ..tasks import Task, say
from ..tasks.backbone import is_tuned
from ..tasks.evaluation import plain_model
from .checkpoints import checkpoints_of
from .progress import Stopwatch, encoding
from .resume import RunState, fit
from .setup import LEARNING_RATE, Prepared, build_trainer
from .trainer import RecipeTrainer

PROBE_FOLDER = "probe"
HEADS_FILE = "heads.safetensors"
# Of `probe+lora`, what is that of the second phase.
ONE_PHASE = {"tuning": "lora", "probe_epochs": None, "probe_learning_rate": None}


@dataclass(frozen=True)
class Fitted:
    """A training that has come to its end."""

    trainer: RecipeTrainer  # it holds the model
    run_state: RunState
    record: dict[str, Any]  # how it went


def prepare(task: Task[Any], data: Any) -> Prepared:
    """Open the backbone and encode the data for it."""
    backbone_config, processor = task.open_processor()
    processor = task.fitted_processor(data, processor)
    with PartialState().local_main_process_first(), encoding(data.splits, task.encodes_by):
        encoded = task.encode(data, processor)
    return Prepared(data, encoded, processor, backbone_config)


def fit_phases(task: Task[Any], prepared: Prepared, output_dir: Path) -> Fitted:
    """Train as `tuning` says; with `probe+lora` in two phases, the heads of the first kept in a subfolder."""
    if task.arguments.tuning != "probe+lora":
        return fit_phase(task, prepared, output_dir)
    say("First phase: the heads, on the frozen backbone.")
    heads, probe = probed_heads(task, prepared, output_dir / PROBE_FOLDER)
    say("Second phase: adapters on the backbone, and the heads from where they are.")
    fitted = fit_phase(with_arguments(task, **ONE_PHASE), prepared, output_dir, heads)
    lora = {name: value for name, value in fitted.record.items() if name != "history"}
    phases = {"probe": probe, "lora": lora}
    took = {name: probe[name] + fitted.record[name] for name in ("seconds", "cpu_seconds")}
    return replace(fitted, record={**fitted.record, **took, "phases": phases})


def fit_phase(
    task: Task[Any],
    prepared: Prepared,
    output_dir: Path,
    heads: dict[str, Tensor] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Train to the end of a phase, from such weights of the heads by name, or from fresh ones."""

    def build(options: dict[str, Any]) -> RecipeTrainer:
        trainer = phase_trainer(with_arguments(task, options=options), prepared, output_dir, heads)
        counts = trainer.parameters
        for callback in callbacks:
            trainer.add_callback(callback)
        say(f"{counts['trainable']:,} of {counts['all']:,} parameters train ({task.arguments.tuning}).")
        if trainer.args.push_to_hub and trainer.is_world_process_zero():
            # `Trainer` pushes a checkpoint without the code that it needs.
            custom_object_save(base_model(trainer.model), output_dir)
        return trainer

    watch = Stopwatch()
    trainer, run_state = fit(build, task.arguments.options, output_dir)
    return Fitted(trainer, run_state, training_record(trainer, watch))


def phase_trainer(
    task: Task[Any],
    prepared: Prepared,
    output_dir: Path,
    heads: dict[str, Tensor] | None = None,
    first_pass: bool = True,
) -> RecipeTrainer:
    """Return the `Trainer` of a phase, its model made with the seed of the run; fresh heads may see a first pass."""
    set_seed(task.arguments.seed)
    model = build_model(task, prepared, heads)
    fresh = first_pass and heads is None and not is_tuned(task.arguments)
    trainer = build_trainer(task, prepared, model, output_dir, has_fresh_heads=fresh)
    if trainer.args.bf16 and trainer.args.device.type == "cpu":
        use_fast_attention(base_model(model))
    return trainer


def build_model(task: Task[Any], prepared: Prepared, heads: dict[str, Tensor] | None) -> Any:
    """Return the model that trains; the heads of a LoRA phase start from weights by name, where there are some."""
    if heads is None:
        return task.build_model(prepared.data, prepared.backbone_config)
    return add_lora(model_of_heads(task, prepared, heads), task.peft_type, **task.arguments.lora)


def model_of_heads(task: Task[Any], prepared: Prepared, heads: dict[str, Tensor]) -> Any:
    """Return the model of the first phase, its heads with weights by name."""
    probe = with_arguments(task, **{**ONE_PHASE, "tuning": "probe", "save": "merged"})
    model = probe.build_model(prepared.data, prepared.backbone_config)
    model.load_state_dict({**model.state_dict(), **heads})
    return model


def with_arguments(task: Task[Any], **values: Any) -> Task[Any]:
    """Return the task with other arguments."""
    changed = type(task)(replace(task.arguments, **values))
    changed.backbone = task.backbone
    return changed


def probed_heads(task: Task[Any], prepared: Prepared, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train the heads on the frozen backbone, unless that is done, and return their weights and how it went."""
    path = folder / HEADS_FILE
    if not from_main(path.is_file):
        fitted = fit_phase(probe_phase(task), prepared, folder)
        record = {**fitted.record, "run_state": asdict(fitted.run_state)}
        if PartialState().is_main_process:
            write_weights(path, heads_of(plain_model(fitted.trainer)), record)
            for checkpoint in checkpoints_of(folder):
                shutil.rmtree(checkpoint)
        PartialState().wait_for_everyone()
    return read_weights(path)


def probe_phase(task: Task[Any]) -> Task[Any]:
    """Return the task with the arguments of the first phase."""
    arguments = task.arguments
    rate = arguments.probe_learning_rate
    rate = LEARNING_RATE["probe"] if rate is None else rate
    options = {**arguments.options, "learning_rate": rate, "push_to_hub": False}
    if arguments.probe_epochs is not None:
        options |= {"num_train_epochs": arguments.probe_epochs, "max_steps": -1}
    # The attention heads learn on in the second phase, slower: here they have the rate of all.
    heads = {**ONE_PHASE, "tuning": "probe", "save": "merged", "heads_learning_rate": rate}
    return with_arguments(task, **heads, options=options)


def heads_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return all weights and buffers of a model but its backbone's."""
    backbone = model.base_model.backbone
    place = next(name for name, module in model.named_modules() if module is backbone)
    state = model.state_dict()
    return {name: value.cpu().contiguous() for name, value in state.items() if not name.startswith(f"{place}.")}


def write_weights(path: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write the outcome of a phase, weights by name and how the training went, whole or not at all."""
    with whole_or_nothing(path) as side:
        save_file(weights, side, metadata={"training": json.dumps(record)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a phase by name, and how its training went."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["training"])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}). Delete it to train that phase anew.") from error


def training_record(trainer: RecipeTrainer, watch: Stopwatch) -> dict[str, Any]:
    """Return how training went."""
    return {
        **watch.record(),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_step": trainer.state.best_global_step,
        "best_metric": trainer.state.best_metric,
        "processes": trainer.args.world_size,
        "device": str(trainer.args.device),
        "feature_cache": trainer.feature_record,
        "bf16": trainer.args.bf16,
        "history": trainer.state.log_history,
    }
