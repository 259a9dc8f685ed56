"""Settings as they are written, in YAML files and on the command line, and what they mean for a type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml


class Written(str):
    """A text as it was written, without quotes: what it means depends on the argument that it is for."""


class Loader(yaml.SafeLoader):
    """YAML whose plain values are texts as they are written, and no booleans (NO), dates or numbers."""


def _construct_text(loader: Loader, node: yaml.ScalarNode) -> str:
    return Written(node.value) if node.style is None else str(node.value)


Loader.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # merge keys
Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)

INTEGER, NUMBER = (
    re.compile(r"[-+]?\d+"),
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)"),
)
KEY_AND_VALUE = re.compile(r"(--)?(?P<key>[\w.-]+)=(?P<value>.*)", re.DOTALL)
NOTHING = ("", "~", "null", "Null", "NULL")
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def as_meant(value: Any, hint: Any) -> Any:
    """Return what a value of YAML or of the command line means for an argument of a type: where it wants text, text.

    Raises:
        ValueError: for a list or mapping that does not parse.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, dict):
        inner = next((get_args(kind)[1] for kind in kinds if get_origin(kind) is dict), Any)
        return {str(key): as_meant(item, inner) for key, item in value.items()}
    if isinstance(value, list):
        inner = next((get_args(kind)[0] for kind in kinds if get_origin(kind) is list), Any)
        return [as_meant(item, inner) for item in value]
    if not isinstance(value, Written):
        return value
    text, wants_text = str(value), any(kind is str or get_origin(kind) is Literal for kind in kinds)
    wants = [get_origin(kind) or kind for kind in kinds]
    nests = {"[]": list, "{}": dict}.get(text[:1] + text[-1:])
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_quoted or (nests and (not wants_text or {nests, Any} & {*wants})):
        try:
            return as_meant(yaml.load(text, Loader), hint)
        except yaml.YAMLError as error:
            if not wants_text:
                raise ValueError(f"The value {text!r} is not valid YAML: {error}") from error
    if bool in kinds and text.lower() in SWITCHES:
        return SWITCHES[text.lower()]
    if not wants_text:
        return _resolved(text)
    if NoneType in kinds and text in NOTHING:
        return None
    return int(text) if int in kinds and INTEGER.fullmatch(text) else text


def _resolved(text: str) -> Any:
    """Return the number, boolean (of YAML 1.2) or text that is written."""
    if text in NOTHING:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if NUMBER.fullmatch(text) else text


def read_words(words: Sequence[str], places: Sequence[str] = (), open_end: bool = False) -> dict[str, Any]:
    """Return the settings that the words of a command line give; a later one wins.

    Args:
        words: paths of YAML files, `key=value`, `--key value`, `--key=value`, `--flag`, or values without a key.
        places: keys of the values without one, in their order.
        open_end: whether the last of these keys takes a list of all values that are left.
    """
    settings: dict[str, Any] = {}
    bare: list[str] = []
    for key, value in _pairs(list(words), bare):
        _assign(settings, key, value)
    if len(bare) > len(places) and not (open_end and places):
        raise ValueError(
            f"Cannot read the argument {bare[len(places)]!r}. Give a .yaml file, key=value or --key value."
        )
    for place, word in zip(places, bare, strict=False):
        settings[place] = bare[len(places) - 1 :] if open_end and place == places[-1] else word
    return settings


def _pairs(words: list[str], bare: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield key and value of each word; words without a key are added to `bare`."""
    while words:
        word = words.pop(0)
        if word.endswith((".yaml", ".yml")) and "=" not in word:
            yield from _load_yaml(Path(word)).items()
        elif found := KEY_AND_VALUE.fullmatch(word):
            yield found["key"].replace("-", "_"), Written(found["value"])
        elif word.startswith("--"):
            has_value = bool(words) and not words[0].startswith("--") and "=" not in words[0]
            yield word[2:].replace("-", "_"), Written(words.pop(0)) if has_value else True
        else:
            bare.append(word)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file, whose booleans are `true` and `false` alone.

    Raises:
        ValueError: if the file is missing, does not parse, or is no mapping.
    """
    content: dict[str, Any] = as_meant(_load_yaml(path), Any)
    return content


def _load_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no settings file {path}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        kind = "a text" if isinstance(content, str) else type(content).__name__
        raise ValueError(f"{path} holds {kind}, but a mapping of `key: value` lines is needed.")
    return content


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if isinstance(inner := settings.setdefault(part, {}), Written) and inner.startswith("{"):
            settings[part] = as_meant(inner, Any)
        settings = settings[part]
        if not isinstance(settings, dict):
            raise ValueError(f"{key!r} reaches inside {part!r}, which is {settings!r} and no mapping.")
    settings[last] = value
