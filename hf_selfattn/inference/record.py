"""What a model's results say of how it was trained and how sure it can be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..files import read_json
from ..hub.results import RESULTS_FILE


def read_record(model: str, revision: str | None = None) -> dict[str, Any]:
    """Return the results of the run that made a model; nothing for a model that has none beside it."""
    path = Path(model) / RESULTS_FILE
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, RESULTS_FILE, revision=revision))
        except EntryNotFoundError:
            return {}
    return read_json(path) if path.is_file() else {}


def trained_columns(record: Mapping[str, Any], given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the columns that the user names, or else those that the training was told of, where they are there."""
    trained = record.get("arguments", {})
    if any(value is not None for value in given.values()):
        return dict(given)
    return {option: column for option in given if (column := trained.get(option)) in names}


def with_columns_of(names: Collection[str], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results without those columns of the training that rows with these columns do not have."""

    def stands(column: Any) -> bool:
        numbered = "0" in names and isinstance(column, int)  # the columns of a column file, the last one -1
        return numbered or {*(column if isinstance(column, list) else [column])} <= {*names}

    arguments = record.get("arguments", {}).items()
    kept = {name: value for name, value in arguments if not name.endswith("_column") or stands(value)}
    return {**record, "arguments": kept}
