"""Arguments of runs as tests give them."""

from __future__ import annotations

from typing import Any

from hf_selfattn import TextClassificationArguments, build_arguments


def text_arguments(settings: dict[str, Any]) -> TextClassificationArguments:
    """Arguments of a text classification."""
    return build_arguments(settings, TextClassificationArguments)
