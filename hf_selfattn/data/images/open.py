"""One image file, of any kind, to upright RGB pixels, or an error that says what is wrong with it."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Union, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

ImageSource = Union[str, "os.PathLike[str]", bytes, Mapping[str, Any], Image.Image]
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}  # as the suffix tells them
DEEPER = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # modes of more than 8 bits
BROKEN = "the image is truncated or broken"
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

# How files begin: those of images, and of what is met in their place.
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\x01\0")
INNER_START = re.compile(rb"P[1-6fF]\s|.{8}WEBP|.{4}(jP  \r\n\x87\n|ftypavif)", re.DOTALL)
OTHER_STARTS = {
    b"%PDF": "a PDF document (export its pages as PNG)",
    b"%!PS": "a PostScript document (export it as PNG)",
    b"8BPS": "a Photoshop document (export it as PNG)",
    b"PK\x03\x04": "a ZIP archive (unpack it)",
    b"\x1f\x8b": "compressed by gzip (unpack it)",
    b"version https://git-lfs": "a pointer of Git LFS in place of the image (git lfs pull)",
}
OTHER_MARKUP = {b"<svg": "an SVG drawing (export it as PNG)", b"<html": "an HTML page", b"<?xml": "an XML document"}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

# Filters of warnings belong to the whole process: one thread at a time may change them.
_WARNINGS = threading.Lock()


class ImageError(ValueError):
    """An image that cannot be read: kind of mistake, message that all such images share, detail of this one."""

    def __init__(self, kind: str, message: str, detail: str = "", place: str = "") -> None:
        said = f"{message}: {detail}" if detail else message
        super().__init__(f"{place}: {said}." if place else said)
        self.kind, self.message, self.detail = kind, message, detail


@dataclass(frozen=True)
class DecodedImage:
    """An image as it is read, and what its file was.

    Args:
        image: RGB and upright.
        format, mode: of the file, in the terms of Pillow.
        orientation: of its EXIF data, 1 to 8; 1 is upright.
        remarks: kind and sentence of each thing that was done to it.
    """

    image: Image.Image
    format: str
    mode: str
    orientation: int
    remarks: list[tuple[str, str]]

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before it was turned upright."""
        width, height = self.image.size
        return (height, width) if self.orientation > 4 else (width, height)


def open_image(source: ImageSource) -> Image.Image:
    """Read one image as upright RGB of 8 bits.

    EXIF rotation is applied, transparency is laid onto white, of several frames the first is read, and 16 bits are
    scaled to 8. Colour profiles are not applied.

    Args:
        source: a path, the bytes of a file, the dictionary of both of `datasets`, or an opened image.

    Raises:
        ValueError: the file is missing, empty, broken, truncated, no image, or larger than Pillow's
            `Image.MAX_IMAGE_PIXELS`.
    """
    return decode_image(source).image


def decode_image(source: ImageSource) -> DecodedImage:
    """Read one image as `open_image` does, and say what its file was."""
    place = source_name(source) or "image"
    try:
        with _stream_of(source) as stream, _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _decoded(source, place)
            head = stream.read(1024)
            if not head:
                raise ImageError("image_empty", "the file is empty (0 bytes)")
            _open_header(stream, head).verify()
            return _decoded(_open_header(stream, head), place)
    except ImageError as error:
        raise ImageError(error.kind, error.message, error.detail, place) from error
    except Exception as error:  # decoders raise anything on bytes that are none of theirs
        reason = str(error) or type(error).__name__
        raise ImageError("image_broken", BROKEN, reason, place) from error


def source_name(source: ImageSource) -> str:
    """Return the path of an image, where it has one."""
    if isinstance(source, Mapping):
        source = source.get("path") or ""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""


def is_image(path: Path) -> bool:
    """Tell whether a file is an image by its header, whatever its suffix."""
    try:
        with path.open("rb") as stream, _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _open_header(stream, stream.read(1024))
    except Exception:  # decoders raise anything on bytes that are none of theirs
        return False
    return True


@contextmanager
def _stream_of(source: Any) -> Iterator[IO[bytes]]:
    """Open the bytes of an image."""
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray, Image.Image)):
        yield io.BytesIO(b"" if isinstance(source, Image.Image) else source)
        return
    if source is None or source == "":
        raise ImageError("image_missing", "no image (empty or null)")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError("image_type", f"a {type(source).__name__} is neither a path nor the bytes of an image")
    if str(source).startswith(("http:", "https:")):
        raise ImageError("image_address", "a web address is not read: download the image, and write its path")
    try:
        stream = open(source, "rb")
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        reasons = ((FileNotFoundError, "there is no such file"), (IsADirectoryError, "it is a folder"))
        reason = next((said for kind, said in reasons if isinstance(error, kind)), "the file cannot be opened")
        raise ImageError("image_missing", reason) from error
    with stream:
        yield stream


def _open_header(stream: IO[bytes], head: bytes) -> Image.Image:
    """Read the header of an image, and refuse one that is no image or too large for memory."""
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        if is_known_start(head):
            raise ImageError("image_broken", BROKEN, "its header does not parse") from error
        raise ImageError("image_not_one", f"no image but {_what_it_is(head)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", _too_large(), str(error).split(",")[0]) from error
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError("image_too_large", _too_large(), f"{width} x {height}")
    return image


def _too_large() -> str:
    return (
        f"the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as a file made to fill the memory has; cut it "
        "into pieces, or raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def is_known_start(head: bytes) -> bool:
    """Tell whether a file begins as an image of a format that is read."""
    return head.startswith(IMAGE_STARTS) or INNER_START.match(head) is not None


def _what_it_is(head: bytes) -> str:
    """Say what a file is that is no image."""
    for start, what in OTHER_STARTS.items():
        if head.startswith(start):
            return what
    if head[4:8] == b"ftyp":
        return "HEIF, as phones write it (export it as JPEG)" if head[8:12] in HEIF_BRANDS else "a video"
    text = head.lower()
    for start, what in OTHER_MARKUP.items():
        if start in text or (start == b"<html" and text.lstrip().startswith(b"<!doctype html")):
            return what
    if not head.strip(b"\0"):
        return "zeros (a copy that was broken off)"
    return "text" if b"\0" not in head and head.isascii() else "something unknown"


def _decoded(opened: Image.Image, place: str) -> DecodedImage:
    remarks: list[tuple[str, str]] = []
    mode, orientation = opened.mode, _orientation(opened, remarks)
    suffix = Path(place).suffix.lower()
    told, is_format = Image.registered_extensions().get(suffix), opened.format or ""
    if told and is_format and SAME_FORMAT.get(told, told) != SAME_FORMAT.get(is_format, is_format):
        remarks.append(("image_wrong_suffix", f"'{suffix}' is {is_format} by its content, and read as that"))
    opened.load()
    turned = opened if opened.format == "TIFF" else _upright(opened, orientation)  # Pillow turns TIFF by itself
    rgb = _as_rgb(turned, remarks)
    if _has_frames(opened):
        remarks.append(("image_animated", "several frames or pages: the first is read"))
    return DecodedImage(rgb, is_format, mode, orientation, remarks)


def _orientation(image: Image.Image, remarks: list[tuple[str, str]]) -> int:
    """Read the EXIF orientation; an image whose EXIF data is broken is upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser raises anything, and the pixels may be right all the same
        remarks.append(("image_exif_broken", "the EXIF data is broken: read as upright"))
        return 1
    orientation = value if isinstance(value, int) and 1 <= value <= 8 else 1
    if orientation > 1:
        remarks.append(("image_rotated", "turned upright as its EXIF data says"))
    return orientation


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return ImageOps.exif_transpose(image) if orientation > 1 else image


def _has_frames(image: Image.Image) -> bool:
    """Tell whether there is more than one frame; frames after the first that are broken are none."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # only the first frame is read
        return False


def _as_rgb(image: Image.Image, remarks: list[tuple[str, str]]) -> Image.Image:
    """Return 8-bit RGB of an image of any mode."""
    if image.mode in DEEPER:
        return _scaled(image, remarks).convert("RGB")
    if image.mode == "LAB":
        remarks.append(("image_lab", "converted from LAB to sRGB"))
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast(Image.Image, ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
    if image.mode == "CMYK":
        remarks.append(("image_cmyk", "converted from CMYK, without its colour profile"))
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):  # opaque everywhere
        return layer.convert("RGB")
    remarks.append(("image_transparent", "transparent: laid onto white"))
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _scaled(image: Image.Image, remarks: list[tuple[str, str]]) -> Image.Image:
    """Scale grey of more than 8 bits: 0..65535 to 0..255, and floats 0..1 to 0..255."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and 0 <= low and high <= 1:
        scale, said = 255.0, "floats of 0 to 1, scaled to 0 to 255"
    elif image.mode in ("F", "I") and 0 <= low and high <= 255:
        scale, said = 1.0, "more than 8 bits, and values of 0 to 255, read as they are"
    elif image.mode != "F" and 0 <= low and high <= 65535:
        scale, said = 1 / 257, "16 bits, scaled to 8"
    else:
        limits = "0 to 1 or 0 to 255" if image.mode == "F" else "0 to 65535"
        message = f"the values of the pixels are not {limits}; scale them, and save the image anew"
        raise ImageError("image_values", message, f"{low:g} to {high:g}")
    remarks.append(("image_deep", said))
    return Image.fromarray(np.rint(values.astype(np.float32, copy=False) * scale).astype(np.uint8))
