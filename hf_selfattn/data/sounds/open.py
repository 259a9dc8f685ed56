"""One sound file, of any kind, to mono samples of one rate, or an error that says what is wrong with it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..media.sources import MediaError, source_name, stream_of, what_it_is
from .containers import BROKEN, check_log, check_ogg
from .mpeg import count_mp3

Samples = NDArray[np.float32]
SoundSource = Union[str, "os.PathLike[str]", bytes, Mapping[str, Any]]
FORMATS = {
    "AIFF": (".aif", ".aiff", ".aifc"),
    "AU": (".au", ".snd"),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "MP3": (".mp3",),
    "NIST": (".nist", ".sph"),
    "OGG": (".ogg", ".oga", ".opus"),
    "RF64": (".wav", ".rf64"),
    "W64": (".w64",),
    "WAV": (".wav", ".wave"),
    "WAVEX": (".wav", ".wave"),
}
BLOCK = 2**16  # frames read at once
MAX_SECONDS = 12 * 3600
UNKNOWN = 2**62  # frames, and more: the header does not tell
RATES = (1_000, 768_000)  # of files, in Hz
MAX_CHANNELS = 64

# How files begin: those of sounds, and of what is met in their place.
SOUND_START = re.compile(
    rb"(RIFF|RIFX|RF64).{4}WAVE|FORM.{4}AIF[FC]|fLaC|OggS|ID3|\.snd|dns\.|caff|NIST_1A|riff.{20}wave"
    rb"|\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]",
    re.DOTALL,
)
OTHER_STARTS = {
    b"\x1a\x45\xdf\xa3": "WebM or Matroska (convert it to WAV or FLAC)",
    b"\x30\x26\xb2\x75": "Windows Media (convert it to WAV or FLAC)",
    b"#!AMR": "AMR, as phones write it (convert it to WAV or FLAC)",
    b"MThd": "MIDI, which holds notes and no sound",
    b"ADIF": "AAC (convert it to WAV or FLAC)",
    b"\xff\xf1": "AAC (convert it to WAV or FLAC)",
    b"\xff\xf9": "AAC (convert it to WAV or FLAC)",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}


class SoundError(MediaError):
    """A sound that cannot be read."""


@dataclass
class OpenedSound:
    """A sound whose header is read, and its samples in blocks.

    Args:
        rate: of the file, in Hz.
        format, coding: of the file, in the terms of libsndfile (its format and subtype).
        told: how many frames there are by the header, or more than `UNKNOWN`.
        remarks: kind and sentence of each thing that is done to it in reading; all, when it is read to its end.
        frames: how many were read.
    """

    file: Any
    rate: int
    channels: int
    format: str
    coding: str
    told: int
    remarks: list[tuple[str, str]] = field(default_factory=list)
    frames: int = 0

    def blocks(self) -> Iterator[Samples]:
        """Yield all samples, (frames, channels) a block that the next one overwrites; whole numbers become -1 to 1."""
        buffer, peak = np.empty((BLOCK, self.channels), dtype=np.float32), 0.0
        while count := self.file.buffer_read_into(buffer[: self.told - self.frames], "float32"):
            block = buffer[:count]
            high = float(np.abs(block).max())
            if not np.isfinite(high):
                first = self.frames + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                where = f"the first at {first / self.rate:.3f} s"
                raise SoundError("sound_not_finite", "samples that are NaN or infinite", where)
            peak = max(peak, high)
            self.frames += count
            if self.frames > MAX_SECONDS * self.rate:
                raise SoundError("sound_too_long", _too_long())
            yield block
        if not self.frames:
            raise SoundError("sound_no_samples", "the sound has no samples (0 s)")
        if self.frames < self.told < UNKNOWN:
            raise SoundError("sound_broken", BROKEN, f"it ends after {self.frames} of {self.told} samples")
        if peak > 1.0 + 1e-3 and self.coding in ("FLOAT", "DOUBLE"):
            self.remarks.append(("sound_over_one", "floats beyond -1 to 1, read as they are"))


@dataclass(frozen=True)
class DecodedSound:
    """A sound as it is read, and what its file was.

    Args:
        samples: (N,) mono at `rate` Hz.
        stored_rate, channels, format, coding: of the file.
        remarks: kind and sentence of each thing that was done to it.
    """

    samples: Samples
    rate: int
    stored_rate: int
    channels: int
    format: str
    coding: str
    remarks: list[tuple[str, str]]


def open_sound(source: SoundSource, rate: int) -> Samples:
    """Read one sound as mono samples at a rate, nothing cut and nothing normalised.

    Whole numbers of 8 to 32 bits become floats of -1 to 1, several channels are averaged, and another rate is
    resampled (soxr, high quality) block by block: beside the result, memory does not grow with the file.

    Args:
        source: a path, the bytes of a file, or the dictionary of both of `datasets`.
        rate: of the result, in Hz.

    Returns:
        (N,) samples, N = seconds · rate.

    Raises:
        ValueError: the file is missing, empty, broken, truncated, no sound, without samples, not finite, or longer
            than 12 hours.
    """
    return decode_sound(source, rate).samples


def decode_sound(source: SoundSource, rate: int | None = None) -> DecodedSound:
    """Read one sound as `open_sound` does, at its own rate where none is given, and say what its file was."""
    with opened_sound(source) as sound:
        rate = sound.rate if rate is None else rate
        resample = _Resampler(sound.rate, rate)
        parts = [resample(block.mean(axis=1)) for block in sound.blocks()]
        samples = np.concatenate([*parts, resample.rest()])
        if not np.isfinite(samples).all():
            raise SoundError("sound_not_finite", "samples so large that they cannot be averaged or resampled")
        return DecodedSound(samples, rate, sound.rate, sound.channels, sound.format, sound.coding, sound.remarks)


def sound_endings() -> frozenset[str]:
    """Return the suffixes of the formats that are read."""
    return frozenset(ending for endings in FORMATS.values() for ending in endings)


def is_sound(path: Path) -> bool:
    """Tell whether a file is a sound by its header, whatever its suffix."""
    try:
        with opened_sound(path):
            return True
    except SoundError as error:
        return error.kind not in ("sound_not_one", "sound_missing", "sound_empty")


class ForwardFile(soundfile.SoundFile):
    """A file read from its start to its end: soundfile seeks after each block, and a decoder then loses its state."""

    def seekable(self) -> bool:
        """Keep soundfile from seeking."""
        return False


class HeldFile(io.BytesIO):
    """Bytes in which libsndfile may seek as in a file: a place before the first byte is refused without an error."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek, or stay."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


@contextmanager
def opened_sound(source: SoundSource) -> Iterator[OpenedSound]:
    """Open a sound to be read in blocks; an error, here or while it is read, names the file."""
    place = source_name(source) or "sound"
    try:
        with stream_of(source, "sound") as stream:
            head = stream.read(1024)
            if not head:
                raise SoundError("sound_empty", "the file is empty (0 bytes)")
            if not SOUND_START.match(head):
                raise SoundError("sound_not_one", f"no sound but {_no_sound(head)}")
            counted = None
            if head.startswith(b"OggS"):
                check_ogg(stream)
            elif head.startswith((b"ID3", b"\xff")):
                stream.seek(0)
                counted = count_mp3(stream.read())
            held: Any = HeldFile(stream.getvalue()) if isinstance(stream, io.BytesIO) else stream.fileno()
            if isinstance(held, int):  # libsndfile reads the file without Python
                os.lseek(held, 0, os.SEEK_SET)
            with ForwardFile(held, closefd=False) as file:
                yield _checked_header(file, head, place, counted)
    except MediaError as error:
        raise SoundError(error.kind, error.message, error.detail, place) from error
    except soundfile.LibsndfileError as error:
        raise SoundError("sound_broken", BROKEN, _reason(error), place) from error


def _checked_header(file: soundfile.SoundFile, head: bytes, place: str, counted: int | None) -> OpenedSound:
    """Look at the header of a file, whose frames may have been counted, and refuse what is no sound to hear."""
    if file.format not in FORMATS:
        raise SoundError("sound_not_one", "no sound but something unknown")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        message = f"the rate of the samples is not between {RATES[0]:,} and {RATES[1]:,} Hz, as a broken header has it"
        raise SoundError("sound_rate", message, f"{file.samplerate} Hz")
    if file.channels > MAX_CHANNELS:
        raise SoundError("sound_channels", f"the sound has more than {MAX_CHANNELS} channels", str(file.channels))
    if MAX_SECONDS * file.samplerate < file.frames < UNKNOWN:
        raise SoundError("sound_too_long", _too_long(), f"{file.frames / file.samplerate / 3600:.1f} hours")
    remarks = check_log(file.extra_info, head, file.frames)
    suffix = Path(place).suffix.lower()
    if suffix in sound_endings() and suffix not in FORMATS[file.format]:
        remarks.append(("sound_wrong_suffix", f"'{suffix}' is {file.format} by its content, and read as that"))
    if file.channels > 1:
        remarks.append(("sound_channels_averaged", f"{file.channels} channels, averaged to one"))
    told = file.frames if counted is None else counted
    return OpenedSound(file, file.samplerate, file.channels, file.format, file.subtype, told, remarks)


def _no_sound(head: bytes) -> str:
    """Say what a file is that is no sound."""
    if head[4:8] == b"ftyp":
        return "MPEG-4, as M4A or a video (convert it to WAV or FLAC)"
    return what_it_is(head, OTHER_STARTS)


def _reason(error: soundfile.LibsndfileError) -> str:
    said = error.error_string.strip().rstrip(".").removeprefix("Error : ")
    return "its header does not parse" if "does not exist" in said or "Garbled" in said else said


def _too_long() -> str:
    return (
        f"the sound is longer than {MAX_SECONDS // 3600} hours, as a file made to fill the memory is; cut it into "
        "pieces, or raise hf_selfattn.data.sounds.open.MAX_SECONDS"
    )


class _Resampler:
    """Blocks of mono samples at one rate to those at another."""

    def __init__(self, rate: int, wanted: int) -> None:
        self.stream = None if rate == wanted else soxr.ResampleStream(rate, wanted, 1, dtype="float32")

    def __call__(self, block: Samples) -> Samples:
        return block if self.stream is None else self.stream.resample_chunk(block)

    def rest(self) -> Samples:
        """Return what is still inside, after the last block."""
        empty = np.empty(0, dtype=np.float32)
        return empty if self.stream is None else self.stream.resample_chunk(empty, last=True)
