"""Images and sounds as parts of a page: small, with what the heads looked at laid over them; as spectrograms."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import ShortTimeFFT

from ...metrics.inputs import Array
from ..blocks import Picture

if TYPE_CHECKING:  # a report on texts needs no Pillow
    from PIL import Image

SIDE = 224  # pixels of the longer side on the page, at most
FOR, AGAINST = (40, 130, 255), (255, 120, 0)
SOUND_RATE = 16_000  # Hz; half of it is the top of a spectrogram
SOUND_SECONDS = 20  # that are shown at most, from the start
SOUND_SIZE = (420, 128)  # pixels on the page
QUIETEST = -80.0  # dB below the loudest
MOST_COVER = 0.75  # of the image by a colour, where the weight is greatest


def thumbnail(source: Any) -> Image.Image:
    """Return a small image of what a row holds."""
    from ...data.images import open_image

    image = open_image(source)
    image.thumbnail((SIDE, SIDE))
    return image


def as_picture(image: Image.Image, alt: str, caption: str = "") -> Picture:
    """Return an image as a part of the page itself."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=80)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}", alt, caption)


def seen_by_model(pixels: Array, processor: Any) -> Image.Image:
    """Return what a model reads of an image, of its tensor (3, H, W): resized and cropped by the processor."""
    from PIL import Image

    if getattr(processor, "do_normalize", False):
        mean, deviation = (np.reshape(values, (-1, 1, 1)) for values in (processor.image_mean, processor.image_std))
        pixels = pixels * deviation + mean
    elif pixels.max() > pixels.min():
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
    scale = SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)))


def laid_over(image: Image.Image, shares: Array) -> Image.Image:
    """Return an image coloured by shares (H, W) of its parts, from -1 (orange) to 1 (blue)."""
    from PIL import Image

    for colour, cover in ((FOR, shares), (AGAINST, -shares)):
        mask = Image.fromarray((np.clip(cover, 0, 1) * 255 * MOST_COVER).astype(np.uint8)).resize(image.size)
        image = Image.composite(Image.new("RGB", image.size, colour), image, mask)
    return image


def spectrogram(source: Any) -> Image.Image:
    """Return the beginning of a sound as an image: time to the right, 0 to 8 kHz upwards, loud is bright."""
    from PIL import Image

    from ...data.sounds import open_sound

    samples = open_sound(source, SOUND_RATE)[: SOUND_SECONDS * SOUND_RATE]
    samples = np.pad(samples, (0, max(512 - len(samples), 0)))
    transform = ShortTimeFFT.from_window("hann", SOUND_RATE, 512, 352)
    power = np.maximum(transform.spectrogram(samples), 1e-12)
    decibels = 10 * np.log10(power / power.max())
    bright = np.clip(1 - decibels / QUIETEST, 0, 1)[::-1]
    return Image.fromarray((bright * 255).astype(np.uint8)).resize(SOUND_SIZE)
