"""Self-attention and grouped-attention heads on any Hugging Face encoder.

Importing the package registers its models, so `AutoModel…from_pretrained` and `pipeline` open its checkpoints.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from .modeling.configuration_selfattn import SelfAttnConfig
from .modeling.modeling_selfattn import (
    SelfAttnForSequenceClassification,
    SelfAttnForTokenClassification,
    SelfAttnModel,
)

__version__ = "0.1.0"

AutoConfig.register("selfattn", SelfAttnConfig, exist_ok=True)
for auto_class, model_class in (
    (AutoModel, SelfAttnModel),
    (AutoModelForSequenceClassification, SelfAttnForSequenceClassification),
    (AutoModelForTokenClassification, SelfAttnForTokenClassification),
):
    auto_class.register(SelfAttnConfig, model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class.__name__)

__all__ = [
    "SelfAttnConfig",
    "SelfAttnForSequenceClassification",
    "SelfAttnForTokenClassification",
    "SelfAttnModel",
    "__version__",
    "export_onnx",  # noqa: F822
]


def __getattr__(name: str) -> Any:
    """Return a public name whose module is imported when it is first asked for."""
    if name == "export_onnx":
        return import_module(".hub.onnx", __name__).export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
