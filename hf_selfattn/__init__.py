"""Self-attention and grouped-attention heads on any Hugging Face encoder.

Importing the package registers its models, so `AutoModel…from_pretrained` and `pipeline` open its checkpoints. All
other public names are imported when they are first asked for.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def without_collector() -> Iterator[None]:
    """Import with the garbage collector off: what libraries make stays, and looking through it takes a third of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


with without_collector():
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForAudioClassification,
        AutoModelForCTC,
        AutoModelForImageClassification,
        AutoModelForObjectDetection,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    from .modeling.audio_selfattn import SelfAttnAudioModel, SelfAttnForAudioClassification, SelfAttnForCTC
    from .modeling.configuration_selfattn import SelfAttnConfig
    from .modeling.detection_selfattn import SelfAttnForObjectDetection
    from .modeling.image_selfattn import SelfAttnForImageClassification, SelfAttnImageModel
    from .modeling.modeling_selfattn import (
        SelfAttnForSequenceClassification,
        SelfAttnForTokenClassification,
        SelfAttnModel,
    )

__version__ = "0.1.0"

# PEFT imports bitsandbytes where it is, which warns of a kernel that only a 4-bit backbone on a CPU would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

AutoConfig.register("selfattn", SelfAttnConfig, exist_ok=True)
for auto_class, model_class in (
    (AutoModel, SelfAttnModel),
    (AutoModelForAudioClassification, SelfAttnForAudioClassification),
    (AutoModelForCTC, SelfAttnForCTC),
    (AutoModelForImageClassification, SelfAttnForImageClassification),
    (AutoModelForObjectDetection, SelfAttnForObjectDetection),
    (AutoModelForSequenceClassification, SelfAttnForSequenceClassification),
    (AutoModelForTokenClassification, SelfAttnForTokenClassification),
):
    auto_class.register(SelfAttnConfig, model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class.__name__)
SelfAttnAudioModel.register_for_auto_class("AutoModel")
SelfAttnImageModel.register_for_auto_class("AutoModel")

# Where each public name stands that is imported when it is first asked for.
PUBLIC = {
    "adapters": ("add_lora", "lora_config", "merge_adapters", "method_config", "mixed_logits", "open_adapter"),
    "arguments": ("RunArguments", "build_arguments", "parse_arguments"),
    "hub.card": ("model_card",),
    "hub.export": ("ExportArguments", "export"),
    "hub.onnx": ("export_onnx",),
    "hub.push": ("PushArguments", "push_folder", "push_run"),
    "hub.saving": ("save_adapter", "save_model"),
    "inference.arguments": ("ServeArguments",),
    "inference.evaluate": ("EvaluateArguments", "evaluate"),
    "inference.predict": ("PredictArguments", "predict"),
    "inference.predictor": ("Predictor", "open_predictor"),
    "inference.server": ("serve",),
    "launch": ("LaunchFilesArguments", "write_launch_files"),
    "metrics": ("compare", "score", "score_spans"),
    "metrics.evaluate_modules": ("as_evaluate_module",),
    "modeling.sound_windows_selfattn": ("open_sound_extractor",),
    "modeling.tiles_selfattn": ("keep_image_size", "pad_images"),
    "reporting.options": ("ReportArguments",),
    "reporting.report": ("report",),
    "tasks": ("NerArguments", "SentimentArguments", "Task", "TextClassificationArguments", "register_task"),
    "tasks.audio_classification": ("AudioClassificationArguments",),
    "tasks.media.speech": ("greedy_path", "join_words"),
    "tasks.image_classification": ("ImageClassificationArguments",),
    "tasks.speech_recognition": ("SpeechRecognitionArguments",),
    "tasks.object_detection": ("ObjectDetectionArguments",),
    "training.faults": ("faults_explained",),
    "training.first_pass": ("fit_codebooks", "standardise_features"),
    "training.run": ("run",),
}
HOMES = {name: home for home, names in PUBLIC.items() for name in names}

__all__ = [
    "SelfAttnAudioModel",
    "SelfAttnConfig",
    "SelfAttnForAudioClassification",
    "SelfAttnForCTC",
    "SelfAttnForImageClassification",
    "SelfAttnForObjectDetection",
    "SelfAttnForSequenceClassification",
    "SelfAttnForTokenClassification",
    "SelfAttnImageModel",
    "SelfAttnModel",
    "__version__",
    *HOMES,  # noqa: PLE0604
]


def __getattr__(name: str) -> Any:
    """Return a public name whose module is imported when it is first asked for."""
    if name in HOMES:
        with without_collector():
            home = import_module(f".{HOMES[name]}", __name__)
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return all public names, those that are not imported yet among them."""
    return sorted({*globals(), *HOMES})
