"""Three hundred odd files: each is read right, sample by sample, or is named by one line that says what is wrong."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sound_samples import Sound, known_sound, sound_file

from hf_selfattn.data.sounds import open_sound
from hf_selfattn.data.sounds.open import SoundError, decode_sound, is_sound

# How far samples may be off, by coding; what is left out has 16 bits at least.
OFF = {"PCM_U8": 2e-2, "PCM_S8": 2e-2, "ULAW": 2e-2, "ALAW": 2e-2, "IMA_ADPCM": 6e-2, "MS_ADPCM": 0.2, "GSM610": 0.2}
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_III", "GSM610")
CODINGS = [
    *[("WAV", coding) for coding in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")],
    *[("WAV", coding) for coding in ("IMA_ADPCM", "MS_ADPCM", "GSM610")],
    *[("WAVEX", coding) for coding in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
    *[("RF64", coding) for coding in ("PCM_16", "PCM_24", "FLOAT")],
    *[("W64", coding) for coding in ("PCM_16", "PCM_24", "FLOAT")],
    *[("AIFF", coding) for coding in ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
    *[("AU", coding) for coding in ("PCM_S8", "PCM_16", "ULAW", "FLOAT")],
    *[("CAF", coding) for coding in ("PCM_16", "PCM_24", "ALAC_16", "FLOAT")],
    *[("NIST", coding) for coding in ("PCM_16", "ULAW")],
    *[("FLAC", coding) for coding in ("PCM_S8", "PCM_16", "PCM_24")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
]


def opened(data: bytes, rate: int = 16_000, suffix: str = "") -> Sound:
    """The samples of a file; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = open_sound({"bytes": data, "path": f"file{suffix}"}, rate)
    assert samples.dtype == np.float32 and samples.ndim == 1
    return samples


def assert_known(samples: Sound, rate: int, coding: str = "PCM_16") -> None:
    """Compare with the known sound at the rate; a coding may fill its last block."""
    expected = known_sound(rate)
    assert -2 <= len(samples) - len(expected) <= (rate // 10 if coding in OFF else 2)
    shared = min(len(samples), len(expected))
    samples, expected = samples[:shared], expected[:shared]
    if coding in LOSSY:
        assert np.corrcoef(samples, expected)[0, 1] > 0.95
    else:
        assert np.abs(samples - expected).max() < OFF.get(coding, 1e-3)


def refusal(data: bytes, *kinds: str) -> str:
    with pytest.raises(SoundError) as caught:
        opened(data, suffix=".x")
    said = str(caught.value)
    assert said.startswith("file.x: ") and "\n" not in said and caught.value.kind in kinds, (caught.value.kind, said)
    return said


@pytest.mark.parametrize(("kind", "coding"), CODINGS)
@pytest.mark.parametrize(("stored", "wanted"), [(16_000, 16_000), (48_000, 16_000), (8_000, 16_000)])
def test_formats_codings_and_rates(kind: str, coding: str, stored: int, wanted: int) -> None:
    assert_known(opened(sound_file(kind, coding, stored), wanted), wanted, coding)


RATES = [4_410, 6_000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_800, 44_100, 88_200, 96_000, 192_000, 384_000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("wanted", [16_000, 8_000, 44_100])
def test_any_rate_is_resampled(rate: int, wanted: int) -> None:
    assert_known(opened(sound_file(rate=rate), wanted), wanted)


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8])
@pytest.mark.parametrize(
    ("kind", "coding"),
    [("WAV", "PCM_16"), ("WAVEX", "PCM_24"), ("FLAC", "PCM_24"), ("AIFF", "FLOAT"), ("OGG", "VORBIS")],
)
def test_channels_are_averaged_and_it_is_said(kind: str, coding: str, channels: int) -> None:
    data = sound_file(kind, coding, 22_050, channels)
    assert_known(opened(data), 16_000, coding)
    assert ("sound_channels_averaged", f"{channels} channels, averaged to one") in decode_sound(data).remarks


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [sound_file(kind, coding, 48_000, 2) for kind, coding in (("WAV", "PCM_16"), ("MP3", None), ("OGG", None))]
    whole = [opened(data) for data in files]
    monkeypatch.setattr("hf_selfattn.data.sounds.open.BLOCK", 1_000)
    for one, other in zip(whole, map(opened, files), strict=True):
        assert len(one) == len(other) and np.abs(one - other).max() < 1e-5


def test_a_path_bytes_and_a_cell_are_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data := sound_file())
    for source in (path, str(path), data, {"bytes": None, "path": str(path)}, {"bytes": data, "path": None}):
        assert_known(open_sound(source, 16_000), 16_000)


@pytest.mark.parametrize(("kind", "coding"), [pair for pair in CODINGS if pair[0] not in ("RF64", "WAVEX")][::2])
@pytest.mark.parametrize("share", [0.002, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(kind: str, coding: str, share: float) -> None:
    data = sound_file(kind, coding)
    cut = data[: max(1, int(len(data) * share))]
    refusal(cut, "sound_broken", *(("sound_not_one", "sound_no_samples") if len(cut) < 200 else ()))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "FLAC", "OGG", "MP3"])
def test_no_samples(kind: str) -> None:
    data = sound_file(kind, seconds=0)
    refusal(data, "sound_no_samples" if data else "sound_empty", "sound_broken")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize(
    ("kind", "coding"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("AIFF", "FLOAT"), ("CAF", "DOUBLE")]
)
def test_floats_that_are_no_numbers_are_named(kind: str, coding: str, place: int, value: float) -> None:
    samples = known_sound(16_000)
    samples[place] = value
    said = refusal(as_file(samples, kind, coding), "sound_not_finite")
    assert f"the first at {(place % len(samples)) / 16_000:.3f} s" in said


def as_file(samples: NDArray[Any], kind: str = "WAV", coding: str = "FLOAT") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format=kind, subtype=coding)
    return stream.getvalue()


def test_floats_beyond_one_are_read_as_they_are_and_said() -> None:
    data = as_file(known_sound(16_000) * 32_768)
    assert np.abs(opened(data) - known_sound(16_000) * 32_768).max() < 1e-2
    assert dict(decode_sound(data).remarks).keys() == {"sound_over_one"}
    refusal(as_file(known_sound(16_000) * 1e300, coding="DOUBLE"), "sound_not_finite")


def mp3_of(samples: Sound, **options: Any) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 44_100, format="MP3", **options)
    return stream.getvalue()


def without_tag(mp3: bytes) -> bytes:
    """An MP3 file without its first frame, which tells how many follow."""
    return mp3[next(place for place in range(4, len(mp3)) if mp3[place] == 255 and mp3[place + 1] == mp3[1]) :]


@pytest.mark.parametrize("loud_first", [True, False])
def test_mp3_without_a_length_is_read_to_its_end_or_named(loud_first: bool) -> None:
    """libsndfile guesses the length by the first frames: of this one a fifth, or half as much again."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100)
    samples = np.concatenate([noise, 0 * noise] if loud_first else [0 * noise, noise])
    variable = mp3_of(samples, bitrate_mode="VARIABLE", compression_level=0.5)
    assert len(opened(variable, 44_100)) == len(samples)
    assert "write it anew" in refusal(without_tag(variable), "sound_no_length")
    constant = mp3_of(samples, bitrate_mode="CONSTANT", compression_level=0.5)
    bare = without_tag(constant)
    assert 0 <= len(opened(bare, 44_100)) - len(samples) < 3 * 1_152
    assert len(opened(bare + b"APETAGEX" + bytes(9_000), 44_100)) == len(opened(bare, 44_100))
    refusal(bare[:-100], "sound_broken")
    refusal(bare[: len(bare) // 2] + bytes(50) + bare[len(bare) // 2 :], "sound_broken")


SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".raw", ".txt", ""]
RIGHT = {"WAV": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "AIFF": ".aiff"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", RIGHT)
def test_a_wrong_suffix_is_read_by_content_and_said(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(sound_file(kind))
    decoded = decode_sound(path, 16_000)
    assert_known(decoded.samples, 16_000, "MPEG_LAYER_III" if kind in ("OGG", "MP3") else "PCM_16")
    is_wrong = suffix in RIGHT.values() and suffix != RIGHT[kind]
    assert ("sound_wrong_suffix" in dict(decoded.remarks)) == is_wrong and is_sound(path)


NO_SOUNDS = {
    "PNG": (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "an image"),
    "JPEG": (b"\xff\xd8\xff\xe0" + b"x" * 50, "an image"),
    "PDF": (b"%PDF-1.7 x", "PDF"),
    "ZIP": (b"PK\x03\x04xxxx", "ZIP"),
    "gzip": (b"\x1f\x8b\x08xxxx", "gzip"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html><html>404</html>", "HTML"),
    "text": (b"hello, this is no sound", "text"),
    "zeros": (b"\0" * 5000, "zeros"),
    "noise": (bytes(range(128, 250)) * 9, "something unknown"),
    "M4A": (b"\0\0\0\x20ftypM4A \0\0\0\0" + b"x" * 50, "M4A"),
    "WebM": (b"\x1a\x45\xdf\xa3" + b"x" * 50, "WebM"),
    "WMA": (b"\x30\x26\xb2\x75" + b"x" * 50, "Windows Media"),
    "AMR": (b"#!AMR\n" + b"x" * 50, "AMR"),
    "AAC": (b"\xff\xf1\x50\x80" + b"x" * 50, "AAC"),
    "MIDI": (b"MThd\0\0\0\x06" + b"x" * 50, "MIDI"),
    "AVI": (b"RIFF\x24\0\0\0AVI LIST", "something unknown"),
}


@pytest.mark.parametrize("name", NO_SOUNDS)
def test_what_is_no_sound_is_named(tmp_path: Path, name: str) -> None:
    data, said = NO_SOUNDS[name]
    assert said in refusal(data, "sound_not_one")
    (tmp_path / "a").write_bytes(data)
    assert not is_sound(tmp_path / "a")


def test_places_without_a_file(tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "there is no such file": tmp_path / "none.wav",
        "it is a folder": tmp_path,
        "no sound (empty or null)": None,
        "web address": "https://a.example/a.wav",
        "neither a path nor": 7,
        "0 bytes": b"",
    }
    for said, source in cases.items():
        with pytest.raises(SoundError) as caught:
            open_sound(source, 16_000)
        assert said in str(caught.value)


WAV = sound_file()
DATA = WAV.index(b"data")
LIST = b"LIST" + struct.pack("<I", 14) + b"INFOISFT" + struct.pack("<I", 2) + b"ab"


def header(place: int, form: str, value: int) -> bytes:
    """The WAV file with another number in its header."""
    return WAV[:place] + struct.pack(form, value) + WAV[place + struct.calcsize(form) :]


def with_length(flac: bytes, frames: int) -> bytes:
    """A FLAC file whose header tells another number of samples, of 36 bits; 0 is unknown."""
    return flac[:21] + bytes([flac[21] & 0xF0 | frames >> 32]) + struct.pack(">I", frames & 0xFFFFFFFF) + flac[26:]


READ: dict[str, Callable[[], bytes]] = {
    "bytes behind it": lambda: WAV + b"more" * 50,
    "a chunk before the samples": lambda: WAV[:DATA] + LIST + WAV[DATA:],
    "a chunk behind the samples": lambda: WAV + LIST,
    "a whole size of 0": lambda: header(4, "<I", 0),
    "a whole size that is wrong": lambda: header(4, "<I", 50),
    "written as a stream, ffmpeg": lambda: WAV[:4] + b"\xff" * 4 + WAV[8 : DATA + 4] + b"\xff" * 4 + WAV[DATA + 8 :],
    "written as a stream, sox": lambda: header(DATA + 4, "<I", 0x7FFFFFFF - 36),
    "written as a stream, arecord": lambda: header(DATA + 4, "<I", 0x80000000),
    "AU written as a stream": lambda: (au := sound_file("AU"))[:8] + b"\xff" * 4 + au[12:],
    "FLAC written as a stream": lambda: (
        (flac := sound_file("FLAC"))[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]
    ),
    "FLAC, a tag behind it": lambda: sound_file("FLAC") + b"TAG" + bytes(125),
    "wrong bytes for each second": lambda: header(28, "<I", 7),
    "big-endian": lambda: as_rifx(),
}


def as_rifx() -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, known_sound(16_000), 16_000, format="WAV", subtype="PCM_16", endian="BIG")
    assert stream.getvalue().startswith(b"RIFX")
    return stream.getvalue()


@pytest.mark.parametrize("name", READ)
def test_odd_headers_that_are_read(name: str) -> None:
    data = READ[name]()
    assert_known(opened(data), 16_000)
    assert ("sound_streamed" in dict(decode_sound(data).remarks)) == (name.startswith("written"))


@pytest.mark.parametrize("kind", ["MP3", "OGG"])
def test_tags_of_compressed_files_are_passed_over(kind: str) -> None:
    data = sound_file(kind)
    tag = b"ID3\x04\0\0\0\0\x0f\x76" + bytes(2038)
    for tagged in (data + b"TAG" + bytes(125), *([tag + data] if kind == "MP3" else [])):
        assert np.abs(opened(tagged) - opened(data)).max() < 1e-6


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "rate of 0": (lambda: header(24, "<I", 0), "sound_broken", ""),
    "rate of 1 Hz": (lambda: header(24, "<I", 1), "sound_rate", "1 Hz"),
    "rate of 999 Hz": (lambda: header(24, "<I", 999), "sound_rate", "not between 1,000 and 768,000 Hz"),
    "rate of 2 GHz": (lambda: header(24, "<I", 2_000_000_000), "sound_rate", "2000000000 Hz"),
    "no channels": (lambda: header(22, "<H", 0), "sound_broken", ""),
    "65 channels": (lambda: sound_file(channels=65), "sound_channels", "more than 64 channels"),
    "a coding that is unknown": (lambda: header(20, "<H", 0x6789), "sound_broken", ""),
    "not closed": (lambda: header(DATA + 4, "<I", 0), "sound_unfinished", "was not closed"),
    "a header only": (lambda: WAV[:36], "sound_broken", ""),
    "two Ogg files": (lambda: sound_file("OGG") * 2, "sound_joined", "only the first"),
    "two MP3 files": (lambda: sound_file("MP3", seconds=2) * 2, "sound_joined", "only the first"),
    "Ogg without its last page": (
        lambda: (ogg := sound_file("OGG"))[: ogg.rindex(b"OggS")],
        "sound_broken",
        "last page",
    ),
    "Ogg with another byte": (
        lambda: (ogg := sound_file("OGG"))[:-50] + bytes([ogg[-50] ^ 1]) + ogg[-49:],
        "sound_broken",
        "has another checksum",
    ),
    "Ogg with a hole": (lambda: (ogg := sound_file("OGG"))[:200] + ogg[300:], "sound_broken", "page of Ogg"),
    "FLAC of 600 hours": (
        lambda: with_length(sound_file("FLAC"), 16_000 * 3_600 * 600),
        "sound_too_long",
        "longer than 12 hours",
    ),
    "FLAC with another byte": (
        lambda: (flac := sound_file("FLAC"))[: len(flac) // 2] + b"\x55\xaa" + flac[len(flac) // 2 + 2 :],
        "sound_broken",
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_headers_that_are_refused(name: str) -> None:
    make, kind, said = REFUSED[name]
    assert said in refusal(make(), kind)


def test_a_length_that_the_header_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_selfattn.data.sounds.open.MAX_SECONDS", 0.1)
    refusal(READ["FLAC written as a stream"](), "sound_too_long")
    assert "raise hf_selfattn.data.sounds.open.MAX_SECONDS" in refusal(WAV, "sound_too_long")


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF", "CAF"])
def test_a_few_samples_are_a_sound(kind: str, frames: int) -> None:
    samples = np.linspace(-0.5, 0.5, frames)
    assert np.abs(opened(as_file(samples, kind, "PCM_16")) - samples).max() < 1e-4
    assert abs(len(opened(as_file(samples, kind, "PCM_16"), 48_000)) - 3 * frames) <= 1
