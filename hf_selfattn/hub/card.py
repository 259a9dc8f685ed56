"""The model card: what `results.json` holds, as a page that the hub renders. No number is written by hand."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard

from .card_metadata import metadata
from .card_page import page
from .card_text import has_hub_form, last_part, plain

__all__ = ["model_card"]

NEEDED = ("task", "label_names", "arguments", "parameters", "training", "environment", "splits")


def model_card(results: dict[str, Any], *, name: str | None = None) -> str:
    """Return the model card of a run, metadata and text, as it stands in `README.md`.

    Text from data and arguments is escaped; of a path only the last part is shown, of a secret nothing.

    Raises:
        ValueError: if the results are those of several runs or lack an entry, or `name` is no repository's name.
    """
    check_results(results)
    if name is not None and not has_hub_form(name):
        raise ValueError(f"name={name!r} is no name of a repository. Give one such as 'user/model'.")
    title = name.split("/")[-1] if name else f"{plain(last_part(results['arguments']['model']))}-selfattn"
    text = page(results, title, name or "USER/MODEL")
    return str(ModelCard(f"---\n{metadata(results, title).to_yaml()}\n---\n\n{text}\n"))


def check_results(results: dict[str, Any]) -> None:
    """Check that there is everything that a card is written from.

    Raises:
        ValueError: names what is missing.
    """
    if "runs" in results:
        names = ", ".join(results["runs"])
        raise ValueError(f"These results are of several runs ({names}), each a model of its own. Give those of one.")
    missing = [key for key in NEEDED if results.get(key) in (None, "", {})]
    if missing:
        raise ValueError(f"The results have no {', '.join(missing)}. Give the content of the results.json of a run.")
