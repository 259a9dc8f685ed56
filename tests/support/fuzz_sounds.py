"""Random sound files, right and damaged: each is read, or refused by a line that names it."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from fuzz_images import damaged_bytes, most_held

from hf_selfattn.data.sounds import open_sound
from hf_selfattn.data.sounds.open import SoundError

MEMORY = 2_000_000  # kilobytes that reading a file may add
CODINGS: dict[str, list[str]] = {
    "WAV": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"],
    "WAVEX": ["PCM_16", "PCM_24", "FLOAT"],
    "RF64": ["PCM_16", "FLOAT"],
    "W64": ["PCM_16", "PCM_24"],
    "AIFF": ["PCM_S8", "PCM_16", "PCM_24", "FLOAT"],
    "AU": ["PCM_16", "ULAW", "FLOAT"],
    "CAF": ["PCM_16", "ALAC_16", "FLOAT"],
    "NIST": ["PCM_16", "ULAW"],
    "FLAC": ["PCM_S8", "PCM_16", "PCM_24"],
    "OGG": ["VORBIS", "OPUS"],
    "MP3": ["MPEG_LAYER_III"],
}


def random_sound(random: Random) -> tuple[bytes, float]:
    """Return a right file of any format and coding, and its seconds."""
    kind = random.choice([*CODINGS])
    coding = random.choice(CODINGS[kind])
    rate = random.choice([8000, 16000, 24000, 48000] if coding in ("OPUS", "MPEG_LAYER_III") else [8000, 11025, 44100])
    frames = random.choice([rate // 10, rate // 3, rate])
    channels = random.choice([1, 1, 2] if coding in ("MPEG_LAYER_III", "IMA_ADPCM", "MS_ADPCM") else [1, 1, 2, 6])
    noise = np.random.default_rng(random.randrange(2**32)).uniform(-0.5, 0.5, (frames, channels))
    stream = io.BytesIO()
    soundfile.write(stream, noise, rate, format=kind, subtype=coding)
    return stream.getvalue(), frames / rate


def try_sound(random: Random, folder: Path) -> str:
    """A sound file."""
    data, seconds = random_sound(random)
    is_damaged = random.random() < 0.85
    path = folder / random.choice(["sound.wav", "sound.mp3", "sound.flac", "sound.raw", "sound"])
    held = damaged_bytes(random, data) if is_damaged else data
    path.write_bytes(held)
    before = most_held()
    try:
        samples = open_sound(path if random.random() < 0.5 else {"bytes": held, "path": str(path)}, 16_000)
    except SoundError as error:
        assert is_damaged, f"a right file is read: {error}"
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error), str(error)
        return "refused"
    finally:
        more = most_held() - before
        assert more < MEMORY, f"{more} kilobytes more are held"
    assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) and np.isfinite(samples).all()
    assert is_damaged or abs(len(samples) / 16_000 - seconds) < 0.07, "its length"  # ADPCM fills its last block
    return "read"
