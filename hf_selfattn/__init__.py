"""Self-attention and grouped-attention heads on any Hugging Face encoder.

Importing the package registers its models, so `AutoModel…from_pretrained` and `pipeline` open its checkpoints.
"""

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
]
