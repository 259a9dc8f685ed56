"""Three hundred odd files: each is read right, pixel by pixel, or is named by one line that says what is wrong."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from hf_selfattn.data.images import open_image
from hf_selfattn.data.images.open import ImageError, decode_image

Pixels = NDArray[Any]
HEIGHT, WIDTH = 18, 27
LOSSY = {
    "JPEG": 12.0,
    "MPO": 12.0,
    "WEBP": 12.0,
    "AVIF": 12.0,
    "JPEG2000": 12.0,
}  # how far pixels may be off on average


def scene(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """A smooth picture without symmetry: turned or mirrored it is another."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + 2 * y) * 255 // (width + 2 * height)]
    return np.stack(channels, axis=-1).astype(np.uint8)


SCENE = scene()
GREY = np.asarray(Image.fromarray(SCENE).convert("L"))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(pixels: Pixels) -> Pixels:
    """The RGB of grey."""
    return np.repeat(pixels[..., None], 3, axis=-1)


def laid_on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def opened(data: bytes, suffix: str = "") -> Pixels:
    """The pixels of a file; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(open_image({"bytes": data, "path": f"file{suffix}"}), dtype=np.float64)


def assert_read(data: bytes, expected: Pixels, off: float = 0.0) -> None:
    pixels = opened(data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() <= off


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        opened(data, ".x")
    assert str(caught.value).startswith("file.x: ") and "\n" not in str(caught.value)
    return caught.value


PICTURE = Image.fromarray(SCENE)
FORMATS: dict[str, bytes] = {
    "PNG": saved(PICTURE, "PNG"),
    "JPEG": saved(PICTURE, "JPEG", quality=95, subsampling=0),
    "progressive JPEG": saved(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True),
    "GIF": saved(PICTURE.quantize(256), "GIF"),
    "BMP": saved(PICTURE, "BMP"),
    "TIFF": saved(PICTURE, "TIFF"),
    "TIFF LZW": saved(PICTURE, "TIFF", compression="tiff_lzw"),
    "TIFF deflate": saved(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "WEBP": saved(PICTURE, "WEBP", quality=95),
    "WEBP lossless": saved(PICTURE, "WEBP", lossless=True),
    "PPM": saved(PICTURE, "PPM"),
    "JPEG2000": saved(PICTURE, "JPEG2000"),
    "AVIF": saved(PICTURE, "AVIF", quality=95),
    "MPO": saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(180)], quality=95),
    "ICO": saved(Image.fromarray(scene(32, 32)), "ICO", sizes=[(32, 32)]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    expected = scene(32, 32) if name == "ICO" else SCENE
    off = 6.0 if name == "GIF" else next((off for kind, off in LOSSY.items() if kind in name), 0.0)
    assert_read(FORMATS[name], expected, 0.0 if "lossless" in name else off)


def test_a_path_bytes_and_an_opened_image_are_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FORMATS["PNG"])
    sources = [path, str(path), FORMATS["PNG"], {"bytes": None, "path": str(path)}, Image.open(path), PICTURE]
    assert all((np.asarray(open_image(source)) == SCENE).all() for source in sources)


# Cut files: 14 formats at 14 places each.
CUTS = [(name, share) for name in FORMATS if name != "ICO" for share in [*np.linspace(0.01, 0.99, 12), 0.997, 0.999]]


@pytest.mark.parametrize(("name", "share"), CUTS, ids=lambda value: str(value))
def test_a_cut_file_is_whole_or_named(name: str, share: float) -> None:
    whole = FORMATS[name]
    cut = whole[: max(1, min(len(whole) - 1, int(len(whole) * share)))]
    try:
        pixels = opened(cut)
    except ImageError:
        assert refusal(cut).kind in ("image_broken", "image_not_one")
        return
    assert (pixels == opened(whole)).all(), "what is read of a cut file is the whole image"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    stored = {
        1: SCENE,
        2: SCENE[:, ::-1],
        3: SCENE[::-1, ::-1],
        4: SCENE[::-1],
        5: SCENE.transpose(1, 0, 2),
        6: np.rot90(SCENE, 1),
        7: SCENE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(SCENE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind in ("JPEG", "MPO") else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    options |= {"save_all": True, "append_images": [PICTURE]} if kind == "MPO" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif.tobytes(), **options)
    assert_read(data, SCENE, 0.0 if kind in ("PNG", "WEBP", "TIFF") else 4.0)
    decoded = decode_image(data)
    assert (decoded.orientation, decoded.stored_size) == (orientation, stored.shape[1::-1])
    assert ("image_rotated" in dict(decoded.remarks)) == (orientation > 1)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert_read(saved(PICTURE, "PNG", exif=exif.tobytes()), SCENE)


def test_broken_exif_data_is_said() -> None:
    data = saved(PICTURE, "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0garbage that is no TIFF header")
    assert_read(data, SCENE, 4.0)
    assert dict(decode_image(data).remarks).keys() <= {"image_exif_broken"}


CMYK = np.stack([255 - SCENE[..., 0], 255 - SCENE[..., 1], 255 - SCENE[..., 2], np.zeros_like(GREY)], axis=-1)
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
RGBA = np.dstack([SCENE, ALPHA])
DEEP = (GREY.astype(np.uint16) * 257).astype(np.uint16)
CHECKS = (np.indices((HEIGHT, WIDTH)).sum(0) % 3 == 0).astype(np.uint8) * 255
HOLED = np.where(CHECKS[..., None] > 0, SCENE // 2 + 1, 0).astype(np.uint8)


def palette_image() -> Image.Image:
    image = Image.fromarray((np.indices((HEIGHT, WIDTH)).sum(0) % 4).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    return image


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]])[np.indices((HEIGHT, WIDTH)).sum(0) % 4]
FIRST_HIDDEN = np.where((np.indices((HEIGHT, WIDTH)).sum(0) % 4 == 0)[..., None], 255, PALETTE)


def as_tiff(pixels: Pixels, mode: str | None = None) -> bytes:
    return saved(
        Image.fromarray(pixels) if mode is None else Image.frombytes(mode, (WIDTH, HEIGHT), pixels.tobytes()), "TIFF"
    )


# name: the file, its pixels, how far they may be off, and what is said of it
MODES: dict[str, tuple[bytes, Pixels, float, set[str]]] = {
    "grey PNG": (saved(Image.fromarray(GREY), "PNG"), rgb(GREY), 0, set()),
    "grey JPEG": (saved(Image.fromarray(GREY), "JPEG", quality=95), rgb(GREY), 4, set()),
    "grey BMP": (saved(Image.fromarray(GREY), "BMP"), rgb(GREY), 0, set()),
    "grey PGM": (saved(Image.fromarray(GREY), "PPM"), rgb(GREY), 0, set()),
    "1-bit PNG": (saved(Image.fromarray(CHECKS).convert("1"), "PNG"), rgb(CHECKS), 0, set()),
    "1-bit TIFF": (saved(Image.fromarray(CHECKS).convert("1"), "TIFF"), rgb(CHECKS), 0, set()),
    "1-bit group 4": (
        saved(Image.fromarray(CHECKS).convert("1"), "TIFF", compression="group4"),
        rgb(CHECKS),
        0,
        set(),
    ),
    "1-bit PBM": (saved(Image.fromarray(CHECKS).convert("1"), "PPM"), rgb(CHECKS), 0, set()),
    "CMYK JPEG": (
        saved(Image.frombytes("CMYK", (WIDTH, HEIGHT), CMYK.tobytes()), "JPEG", quality=95, subsampling=0),
        SCENE,
        5,
        {"image_cmyk"},
    ),
    "CMYK TIFF": (as_tiff(CMYK, "CMYK"), SCENE, 1, {"image_cmyk"}),
    "YCbCr TIFF": (saved(PICTURE.convert("YCbCr"), "TIFF"), SCENE, 2, set()),
    "YCbCr JPEG in TIFF": (saved(PICTURE, "TIFF", compression="jpeg", quality=95), SCENE, 12, set()),
    "16-bit PNG": (saved(Image.fromarray(DEEP), "PNG"), rgb(GREY), 0, {"image_deep"}),
    "16-bit TIFF": (as_tiff(DEEP), rgb(GREY), 0, {"image_deep"}),
    "16-bit PGM": (saved(Image.fromarray(DEEP), "PPM"), rgb(GREY), 0, {"image_deep"}),
    "16-bit JPEG2000": (saved(Image.fromarray(DEEP), "JPEG2000"), rgb(GREY), 0, {"image_deep"}),
    "32-bit TIFF of 16 bits": (as_tiff(DEEP.astype(np.int32)), rgb(GREY), 0, {"image_deep"}),
    "32-bit TIFF of 8 bits": (as_tiff(GREY.astype(np.int32)), rgb(GREY), 0, {"image_deep"}),
    "float TIFF, 0 to 1": (as_tiff(GREY.astype(np.float32) / 255), rgb(GREY), 0, {"image_deep"}),
    "float TIFF, 0 to 255": (as_tiff(GREY.astype(np.float32)), rgb(GREY), 0, {"image_deep"}),
    "LAB TIFF": (
        saved(
            ImageCms.profileToProfile(
                PICTURE, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            ),
            "TIFF",
        ),
        SCENE,
        3,
        {"image_lab"},
    ),
    "RGBA PNG": (saved(Image.fromarray(RGBA), "PNG"), laid_on_white(SCENE, ALPHA), 1, {"image_transparent"}),
    "RGBA TIFF": (saved(Image.fromarray(RGBA), "TIFF"), laid_on_white(SCENE, ALPHA), 1, {"image_transparent"}),
    "RGBA WebP": (
        saved(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
        laid_on_white(SCENE, ALPHA),
        1,
        {"image_transparent"},
    ),
    "RGBA AVIF": (
        saved(Image.fromarray(RGBA), "AVIF", quality=95),
        laid_on_white(SCENE, ALPHA),
        8,
        {"image_transparent"},
    ),
    "opaque RGBA": (saved(PICTURE.convert("RGBA"), "PNG"), SCENE, 0, set()),
    "grey and alpha": (
        saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"),
        laid_on_white(rgb(GREY), ALPHA),
        1,
        {"image_transparent"},
    ),
    "fully transparent": (
        saved(Image.fromarray(np.dstack([SCENE, np.zeros_like(GREY)])), "PNG"),
        np.full_like(SCENE, 255),
        0,
        {"image_transparent"},
    ),
    "RGB with a transparent colour": (
        saved(
            Image.fromarray(HOLED),
            "PNG",
            transparency=(0, 0, 0),
        ),
        np.where(CHECKS[..., None] > 0, HOLED, 255),
        0,
        {"image_transparent"},
    ),
    "grey with a transparent value": (
        saved(Image.fromarray(CHECKS), "PNG", transparency=0),
        np.full_like(SCENE, 255),
        0,
        {"image_transparent"},
    ),
    "palette PNG": (saved(palette_image(), "PNG"), PALETTE, 0, set()),
    "palette GIF": (saved(palette_image(), "GIF"), PALETTE, 0, set()),
    "palette BMP": (saved(palette_image(), "BMP"), PALETTE, 0, set()),
    "palette TIFF": (saved(palette_image(), "TIFF"), PALETTE, 0, set()),
    "palette, one entry hidden": (
        saved(palette_image(), "PNG", transparency=0),
        FIRST_HIDDEN,
        0,
        {"image_transparent"},
    ),
    "palette, entries of alpha": (
        saved(palette_image(), "PNG", transparency=bytes([0, 255, 255, 255])),
        FIRST_HIDDEN,
        0,
        {"image_transparent"},
    ),
    "GIF, one entry hidden": (
        saved(palette_image(), "GIF", transparency=0),
        FIRST_HIDDEN,
        0,
        {"image_transparent"},
    ),
    "animated GIF": (
        saved(palette_image(), "GIF", save_all=True, append_images=[palette_image().rotate(180)]),
        PALETTE,
        0,
        {"image_animated"},
    ),
    "animated PNG": (
        saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
        SCENE,
        0,
        {"image_animated"},
    ),
    "animated WebP": (
        saved(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(180)], lossless=True),
        SCENE,
        0,
        {"image_animated"},
    ),
    "animated AVIF": (
        saved(PICTURE, "AVIF", save_all=True, append_images=[PICTURE.rotate(180)], quality=95),
        SCENE,
        8,
        {"image_animated"},
    ),
    "TIFF of two pages": (
        saved(PICTURE, "TIFF", save_all=True, append_images=[PICTURE.rotate(180)]),
        SCENE,
        0,
        {"image_animated"},
    ),
    "MPO of two pictures": (FORMATS["MPO"], SCENE, 4, {"image_animated"}),
    "interlaced GIF": (saved(palette_image(), "GIF", interlace=1), PALETTE, 0, set()),
    "with a colour profile": (
        saved(PICTURE, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        SCENE,
        0,
        set(),
    ),
    "JPEG with a comment": (saved(PICTURE, "JPEG", quality=95, subsampling=0, comment=b"x" * 60000), SCENE, 4, set()),
    "PNG, bytes behind it": (FORMATS["PNG"] + b"more", SCENE, 0, set()),
    "JPEG, bytes behind it": (FORMATS["JPEG"] + b"more" * 99, SCENE, 4, set()),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    data, expected, off, kinds = MODES[name]
    assert_read(data, expected, off)
    assert {kind for kind, _ in decode_image(data).remarks} == kinds


SIZES = [(1, 1), (1, 2), (2, 1), (1, 500), (500, 1), (3, 3), (30_000, 10), (10, 30_000), (7, 65_000)]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_odd_sizes(kind: str, size: tuple[int, int]) -> None:
    pixels = np.asarray(Image.fromarray(scene(size[1], size[0])).convert("L"))
    assert_read(saved(Image.fromarray(pixels), kind), rgb(pixels))


@pytest.mark.parametrize("size", SIZES[:8], ids=str)
def test_odd_sizes_of_jpeg(size: tuple[int, int]) -> None:
    pixels = scene(size[1], size[0])
    assert_read(saved(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0), pixels, 8.0)


SUFFIXES = [
    (name, suffix)
    for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP lossless", "PPM")
    for suffix in (".png", ".jpg", ".JPEG", ".gif", ".tif", ".webp", ".txt", "")
]
RIGHT = {"PNG": ".png", "JPEG": ".jpg .JPEG", "GIF": ".gif", "TIFF": ".tif", "WEBP lossless": ".webp"}


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_a_wrong_suffix_is_read_by_content_and_said(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(FORMATS[name])
    decoded = decode_image(path)
    assert decoded.image.size == (WIDTH, HEIGHT)
    is_wrong = suffix not in ("", ".txt") and suffix not in RIGHT.get(name, "").split()
    assert ("image_wrong_suffix" in dict(decoded.remarks)) == is_wrong


@pytest.mark.parametrize(("name", "suffix"), [("MPO", ".mpo"), ("MPO", ".jpg"), ("BMP", ".bmp"), ("ICO", ".ico")])
def test_a_right_suffix_is_not_said(name: str, suffix: str) -> None:
    remarks = decode_image({"bytes": FORMATS[name], "path": f"file{suffix}"}).remarks
    assert "image_wrong_suffix" not in dict(remarks)


def test_threads_leave_the_filters_of_warnings_as_they_are() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all((np.asarray(image) == SCENE).all() for image in pool.map(open_image, [FORMATS["TIFF LZW"]] * 200))
    assert list(warnings.filters) == before


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A header that promises more than there is."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def heif(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + b"\0" * 100


# name: the file, the kind of mistake, and what the line says
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "image_empty", "0 bytes"),
    "zeros": (b"\0" * 5000, "image_not_one", "zeros"),
    "text": (b"this is no image\n", "image_not_one", "text"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>', "image_not_one", "SVG"),
    "SVG with a header": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="4"/>', "image_not_one", "SVG"),
    "XML": (b'<?xml version="1.0"?><annotation/>', "image_not_one", "XML"),
    "HTML": (b"<!DOCTYPE html><title>404</title>", "image_not_one", "HTML"),
    "HTML without a type": (b"<HTML><body>Not found</body></HTML>", "image_not_one", "HTML"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "image_not_one", "PDF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image_not_one", "PostScript"),
    "Photoshop": (b"8BPS\0\1" + b"\0" * 40, "image_not_one", "Photoshop"),
    "ZIP": (b"PK\x03\x04" + b"\0" * 40, "image_not_one", "ZIP"),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 40, "image_not_one", "gzip"),
    "HEIC of a phone": (heif(b"heic"), "image_not_one", "HEIF"),
    "MP4": (heif(b"isom"), "image_not_one", "video"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "image_not_one", "Git LFS"),
    "JSON": (b'{"image": 1}', "image_not_one", "text"),
    "noise": (np.random.default_rng(0).bytes(3000), "image_not_one", "unknown"),
    "PNG mark only": (b"\x89PNG\r\n\x1a\n", "image_broken", "truncated or broken"),
    "JPEG mark only": (b"\xff\xd8\xff\xe0", "image_broken", "truncated or broken"),
    "a bomb of PNG": (png_of_size(100_000, 100_000), "image_too_large", "pixels"),
    "a lesser bomb": (png_of_size(12_000, 9_000), "image_too_large", "12000 x 9000"),
    "more pixels promised than there are": (png_of_size(500, 500), "image_broken", "truncated"),
    "no width": (png_of_size(0, 10), "image_broken", "broken"),
    "float TIFF, 0 to 1000": (as_tiff(GREY.astype(np.float32) * 4), "image_values", "0 to 1 or 0 to 255"),
    "float TIFF, negative": (as_tiff(GREY.astype(np.float32) - 1), "image_values", "-1"),
    "float TIFF, not a number": (as_tiff(np.where(CHECKS > 0, np.nan, 0.5).astype(np.float32)), "image_values", "nan"),
    "integers above 16 bits": (as_tiff(GREY.astype(np.int32) * 70_000), "image_values", "0 to 65535"),
    "integers below zero": (as_tiff(GREY.astype(np.int32) - 9), "image_values", "-9"),
    **{
        f"PNG, byte {place} changed": (flipped(FORMATS["PNG"], place), "image_broken", "broken")
        for place in (17, 20, 24, 30, 40, 60, 80, len(FORMATS["PNG"]) - 20)
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_named(name: str) -> None:
    data, kind, said = REFUSED[name]
    error = refusal(data)
    assert error.kind == kind and said in str(error), str(error)


MISSING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda folder: folder / "none.png", "no such file"),
    "a folder": (lambda folder: folder, "a folder"),
    "None": (lambda folder: {"bytes": None, "path": None}, "no image"),
    "no path": (lambda folder: "", "no image"),
    "an address": (lambda folder: "https://a.example/x.png", "download"),
    "a number": (lambda folder: 7, "int is neither a path nor"),
    "NUL in the path": (lambda folder: "a\0b.png", "cannot be opened"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    make, said = MISSING[name]
    with pytest.raises(ImageError, match=said):
        open_image(make(tmp_path))


def test_the_limit_of_pixels_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    assert refusal(FORMATS["PNG"]).kind == "image_too_large"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT)
    assert_read(FORMATS["PNG"], SCENE)


def all_files() -> Iterator[str]:
    yield from (*FORMATS, *MODES, *REFUSED, *MISSING)
    yield from (f"{name} cut at {share}" for name, share in CUTS)
    yield from (f"{kind} {size}" for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG") for size in SIZES)
    yield from (f"{name} as {suffix}" for name, suffix in SUFFIXES)
    yield from (f"orientation {value}" for value in range(40))


def test_these_are_more_than_three_hundred_files() -> None:
    assert len({*all_files()}) > 300
