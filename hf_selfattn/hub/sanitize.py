"""Text from data, arguments and errors made fit to be shown: escaped, without paths and secrets."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not marked so

SECRET_KEY = re.compile(r"(?:^|[_.-])(?:tokens?|key|password|secret|credentials?)$", re.IGNORECASE)
SECRET = re.compile(r"(?:hf|api_org)_[A-Za-z0-9]{16,}")
WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|^\\\\")
# What Markdown, HTML and the hub's extensions (links, mentions, formulas, emoji) read as more than a character.
MARKUP = re.compile(r"""[&<>"'\\`*\[\](){}#|~!$:@^]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.""", re.IGNORECASE)
BIDIRECTIONAL = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def has_hub_form(value: Any) -> bool:
    """Return whether a value could be the name of a repository on the hub."""
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return bool(value)


def is_hub_name(value: Any) -> bool:
    """Return whether a name has the form of one on the hub, and no file or folder has it."""
    return has_hub_form(value) and not Path(value).exists()


def last_part(place: str) -> str:
    """Return the last part of a path or address; another text as it is."""
    if WINDOWS_PATH.search(place):
        place = place.replace("\\", "/")
    elif "/" not in place:
        return place
    return place.split("?")[0].rstrip("/").split("/")[-1].removeprefix("~") or "folder"


def without_secrets(value: Any) -> Any:
    """Return settings without those that are named like a token or a password, at any depth."""
    if isinstance(value, dict):
        return {key: without_secrets(inner) for key, inner in value.items() if not SECRET_KEY.search(key)}
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value


def one_line(value: Any) -> str:
    """Return a text without tokens, line breaks and characters that change the direction of writing."""
    text = SECRET.sub("(left out)", str(value).translate(BIDIRECTIONAL))
    kept = (" " if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") else char for char in text)
    return " ".join("".join(kept).split())


def escape(value: Any) -> str:
    """Return a text that Markdown and HTML show as it is, in a line or in the cell of a table."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", one_line(value))


def public(value: Any) -> str:
    """Return an argument's value as it is shown: escaped, of a path the last part."""
    return escape(value if is_hub_name(value) else last_part(str(value)))


def plain(value: Any) -> str:
    """Return a text whose marks are replaced by `_`, for metadata and code, where nothing can be escaped."""
    return re.sub(r"[^\w ./+-]", "_", one_line(value))
