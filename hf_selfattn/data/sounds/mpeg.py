"""The frames of an MP3 file: libsndfile guesses the length of one whose header does not tell it, and stops there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..media.sources import MediaError
from .containers import BROKEN, JOINED

# Kilobits per second by the number in the header, 1 to 14: of MPEG-1 layers III and II, and of MPEG-2 and 2.5.
FAST = {1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
FAST[2] = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
SLOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
RATES = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has a half of them, 2.5 a quarter
TAGS = (b"Xing", b"Info")  # in the first frame, before the number of those that follow
SEARCHED = 2**16  # bytes before the first frame
TOLERANCE = 2  # frames that encoders count differently


@dataclass(frozen=True)
class Frame:
    """One frame: where it begins, its bytes, kilobits per second and samples."""

    place: int
    size: int
    kilobits: int
    samples: int


def count_mp3(data: bytes) -> int | None:
    """Count the samples of an MP3 file; None where its header tells them, or nothing can be told.

    Raises:
        MediaError: it is cut off or broken, holds several files, or has no header and frames of differing bit rates.
    """
    frames = list(_frames(data))
    if not frames:
        return None
    first, last = frames[0], frames[-1]
    end = last.place + last.size
    if end > len(data):
        raise MediaError("sound_broken", BROKEN, "it ends within a frame of MP3")
    if again := next(_frames(data, end + 1), None):
        raise MediaError("sound_broken", BROKEN, f"no frame of MP3 begins at byte {end}, and others at {again.place}")
    told = _told_frames(data[first.place : first.place + first.size])
    if told is None:
        if len({frame.kilobits for frame in frames}) > 1:
            message = (
                "MP3 of a variable bit rate whose header does not tell its length: write it anew, or as WAV or FLAC"
            )
            raise MediaError("sound_no_length", message)
        return sum(frame.samples for frame in frames)
    if len(frames) - 1 > told + TOLERANCE:
        raise MediaError("sound_joined", JOINED.format("MP3"))
    if len(frames) - 1 < told - TOLERANCE:
        raise MediaError("sound_broken", BROKEN, f"{len(frames) - 1} of {told} frames are there")
    return None


def _frames(data: bytes, start: int = 0) -> Iterator[Frame]:
    """Yield the frames from the first place at which two follow each other, to the first that is none."""
    frame = _first_frame(data, start)
    while frame is not None:
        yield frame
        frame = _frame_at(data, frame.place + frame.size)


def _first_frame(data: bytes, start: int) -> Frame | None:
    while data[start : start + 3] == b"ID3" and start + 10 <= len(data):
        size = data[start + 6 : start + 10]
        start += 10 + sum((byte & 127) << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
    place = data.find(b"\xff", start, start + SEARCHED)
    while place >= 0:
        frame = _frame_at(data, place)
        if frame is not None and (_frame_at(data, place + frame.size) or place == start):
            return frame
        place = data.find(b"\xff", place + 1, start + SEARCHED)
    return None


def _frame_at(data: bytes, place: int) -> Frame | None:
    """Read the four bytes of the header of a frame of layer II or III."""
    if len(data) < place + 4 or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[place + 1] >> 3 & 3, 4 - (data[place + 1] >> 1 & 3)  # version 3 is MPEG-1, 2 is 2, 0 is 2.5
    number, rate = data[place + 2] >> 4, data[place + 2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or number in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    kilobits = FAST[1 if layer == 3 else 2][number - 1] if is_first else SLOW[number - 1]
    hertz = RATES[rate] // (1 if is_first else 2 if version == 2 else 4)
    samples = 576 if layer == 3 and not is_first else 1152
    return Frame(place, samples // 8 * kilobits * 1000 // hertz + (data[place + 2] >> 1 & 1), kilobits, samples)


def _told_frames(frame: bytes) -> int | None:
    """Return how many frames follow the first, if that is the header of an encoder."""
    found = max(frame.find(tag, 0, 64) for tag in TAGS)
    if found < 0 or len(frame) < found + 12 or not frame[found + 7] & 1:
        return None
    return int.from_bytes(frame[found + 8 : found + 12], "big") or None
