"""Small archives in the place of those of package registries, and the rows that are made of them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def rows(folder: Path, part: str, seed: int) -> list[dict[str, Any]]:
    """The rows of a part of a fixed split."""
    return [json.loads(line) for line in (folder / f"{part}-{seed}.jsonl").read_text(encoding="utf-8").splitlines()]
