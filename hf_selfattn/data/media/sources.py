"""The bytes of one file, from a path, bytes or a cell of `datasets`, and what a file is that is none of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

OTHER_STARTS = {
    b"%PDF": "a PDF document (export its pages as PNG)",
    b"%!PS": "a PostScript document (export it as PNG)",
    b"8BPS": "a Photoshop document (export it as PNG)",
    b"PK\x03\x04": "a ZIP archive (unpack it)",
    b"\x1f\x8b": "compressed by gzip (unpack it)",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file (git lfs pull)",
}
OTHER_MARKUP = {b"<svg": "an SVG drawing (export it as PNG)", b"<html": "an HTML page", b"<?xml": "an XML document"}


class MediaError(ValueError):
    """A file that cannot be read: kind of mistake, message that all such files share, detail of this one."""

    def __init__(self, kind: str, message: str, detail: str = "", place: str = "") -> None:
        said = f"{message}: {detail}" if detail else message
        super().__init__(f"{place}: {said}." if place else said)
        self.kind, self.message, self.detail = kind, message, detail


def source_name(source: Any) -> str:
    """Return the path of a file, where it has one."""
    if isinstance(source, Mapping):
        source = source.get("path") or ""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""


@contextmanager
def stream_of(source: Any, name: str) -> Iterator[IO[bytes]]:
    """Open the bytes of a file of a medium of this name."""
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray)):
        yield io.BytesIO(source)
        return
    article = "an" if name[0] in "aeiou" else "a"
    if source is None or source == "":
        raise MediaError(f"{name}_missing", f"no {name} (empty or null)")
    if not isinstance(source, (str, os.PathLike)):
        what = f"a {type(source).__name__} is neither a path nor the bytes of {article} {name}"
        raise MediaError(f"{name}_type", what)
    if str(source).startswith(("http:", "https:")):
        raise MediaError(f"{name}_address", f"a web address is not read: download the {name}, and write its path")
    try:
        stream = open(source, "rb")
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        reasons = ((FileNotFoundError, "there is no such file"), (IsADirectoryError, "it is a folder"))
        reason = next((said for kind, said in reasons if isinstance(error, kind)), "the file cannot be opened")
        raise MediaError(f"{name}_missing", reason) from error
    with stream:
        yield stream


def what_it_is(head: bytes, others: Mapping[bytes, str]) -> str:
    """Say what a file is that is none of a medium, by its first bytes; `others` are met in its place."""
    for start, what in {**OTHER_STARTS, **others}.items():
        if head.startswith(start):
            return what
    text = head.lower()
    for start, what in OTHER_MARKUP.items():
        if start in text or (start == b"<html" and text.lstrip().startswith(b"<!doctype html")):
            return what
    if not head.strip(b"\0"):
        return "zeros (a copy that was broken off)"
    return "text" if b"\0" not in head and head.isascii() else "something unknown"
