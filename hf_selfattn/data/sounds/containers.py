"""What libsndfile passes over in silence: files that end before their header says, and several streams in one."""

from __future__ import annotations

import os
import re
import zlib
from typing import IO

from ..media.sources import MediaError

BROKEN = "the sound is truncated or broken"
ENDLESS = 0x7FFF0000  # and more: what programs write that do not know the length yet
# In the log of libsndfile: of WAV and CAF, AIFF, AU, W64, RF64.
SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
FRAMES = re.compile(r"sample_count -i (\d+)|Valid frames\s*: (\d+)")  # in a header of NIST, and of ALAC in CAF
UNFINISHED = re.compile(r"^Length : \d{3,}$.*^data : 0$", re.MULTILINE | re.DOTALL)
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
JOINED = "several {} files are joined in one, and only the first would be read: convert it to WAV or FLAC"


def check_log(log: str, head: bytes, frames: int) -> list[tuple[str, str]]:
    """Refuse a file whose samples end before its header says; return what there is to say of its length.

    Args:
        log: of libsndfile, when it read the header.
        frames: that it found.
    """
    for told, real in ((int(told), int(real)) for told, real in SIZES.findall(log)):
        if told >= ENDLESS > real:
            return [("sound_streamed", "its header does not tell its length (written as a stream): read to its end")]
        if told > real:
            raise MediaError("sound_broken", BROKEN, f"{real} of {told} bytes are there")
    counted = FRAMES.search(head.decode("latin-1") if head.startswith(b"NIST") else log)
    if counted and int(counted[1] or counted[2]) > frames:
        raise MediaError("sound_broken", BROKEN, f"{frames} of {counted[1] or counted[2]} samples are there")
    if not frames and UNFINISHED.search(log):
        message = "the header says that there are no samples, but the file goes on: the recording was not closed"
        raise MediaError("sound_unfinished", message)
    return []


def check_ogg(stream: IO[bytes]) -> None:
    """Refuse an Ogg file that is cut off or broken, or holds several streams one after another."""
    size, place = stream.seek(0, os.SEEK_END), 0
    alive: set[bytes] = set()
    while place < size:
        stream.seek(place)
        head = stream.read(27)
        if not head.startswith(b"OggS"):
            if place and not alive:
                return  # tags behind the last page
            raise MediaError("sound_broken", BROKEN, f"no page of Ogg begins at byte {place}")
        segments = stream.read(head[26]) if len(head) == 27 else b""
        page = head + segments + stream.read(sum(segments))
        if len(head) < 27 or len(segments) < head[26] or len(page) < 27 + len(segments) + sum(segments):
            raise MediaError("sound_broken", BROKEN, "it ends within a page of Ogg")
        if _ogg_checksum(page) != int.from_bytes(page[22:26], "little"):
            raise MediaError("sound_broken", BROKEN, f"the page of Ogg at byte {place} has another checksum")
        is_first, is_last, serial = page[5] & 2, page[5] & 4, page[14:18]
        if is_first and place and not alive:
            raise MediaError("sound_joined", JOINED.format("Ogg"))
        alive = alive - {serial} if is_last else alive | {serial}
        place += len(page)
    if alive:
        raise MediaError("sound_broken", BROKEN, "its last page is missing (cut off, or a recording not closed)")


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of Ogg: that of zlib with the bits in the other order, from 0 and not inverted."""
    zeroed = (page[:22] + bytes(4) + page[26:]).translate(MIRRORED)
    return int(f"{zlib.crc32(zeroed, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
