"""Every kind of image that people bring is read as a viewer shows it, or refused with a clear word."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from mirage_core.errors import DataError
from mirage_core.image_files import displayed_size, read_rgb, remarks, shown_bytes, to_rgb

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
HEIGHT, WIDTH = 24, 40
RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def two_halves() -> Image.Image:
    """Red above blue."""
    image = Image.new("RGB", (WIDTH, HEIGHT), RED)
    image.paste(BLUE, (0, HEIGHT // 2, WIDTH, HEIGHT))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The upper left and the lower right pixel."""
    pixels = np.asarray(image)
    return [tuple(pixels[0, 0].tolist()), tuple(pixels[-1, -1].tolist())]


def near(pixel: tuple[int, ...], wanted: tuple[int, ...], by: int = 6) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= by


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# The first corner of the image as it is shown, and whether width and height are exchanged.
@pytest.mark.parametrize(
    ("orientation", "first", "exchanged"),
    [(1, RED, False), (2, RED, False), (3, BLUE, False), (4, BLUE, False), (5, RED, True), (6, BLUE, True),
     (7, BLUE, True), (8, RED, True)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_and_known_from_the_header(
    kind: str, orientation: int, first: tuple[int, ...], exchanged: bool
) -> None:
    data = encoded(two_halves(), kind, exif=turned(orientation), **({} if kind == "PNG" else {"quality": 95}))
    image = read_rgb(data, "it")
    assert image.size == displayed_size(data, "it") == ((HEIGHT, WIDTH) if exchanged else (WIDTH, HEIGHT))
    assert near(corners(image)[0], first, 12)
    assert not image.getexif().get(0x0112, 1) > 1, "it must not be turned a second time"
    assert any("turned" in note for note in remarks(data, "it")) == (orientation != 1)


def with_alpha(alpha: int, mode: str = "RGBA") -> Image.Image:
    image = two_halves().convert(mode)
    image.putalpha(alpha)
    return image


def palette_with_hole() -> bytes:
    image = two_halves().quantize(4)
    return encoded(image, transparency=image.getpixel((0, 0)))


@pytest.mark.parametrize(
    ("data", "first", "last"),
    [
        (encoded(with_alpha(0)), WHITE, WHITE),
        (encoded(with_alpha(0, "LA")), WHITE, WHITE),
        (encoded(with_alpha(128)), (255, 127, 127), (127, 127, 255)),
        (encoded(with_alpha(255)), RED, BLUE),
        (palette_with_hole(), WHITE, BLUE),
        (encoded(two_halves(), transparency=RED), WHITE, BLUE),
        (encoded(with_alpha(0), "WEBP", lossless=True), WHITE, WHITE),
    ],
    ids=["hidden", "grey", "half", "opaque", "palette", "one-colour", "webp"],
)
def test_transparent_pixels_lie_on_white(data: bytes, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    upper, lower = corners(read_rgb(data, "it"))
    assert near(upper, first, 1) and near(lower, last, 1)


def test_another_background_is_a_setting() -> None:
    data = encoded(with_alpha(0))
    assert corners(read_rgb(data, "it", "black")) == [(0, 0, 0)] * 2
    assert remarks(data, "it", "black") == ["its transparent pixels are drawn over black"]


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray((RAMP * 65535).astype(np.uint16))),
        encoded(Image.fromarray((RAMP * 65535).astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 6 - 2).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 2**20).astype(np.int32)), "TIFF"),
    ],
    ids=["16-bit", "32-bit", "unit-floats", "byte-floats", "other-floats", "large-integers"],
)
def test_samples_of_more_than_8_bits_are_scaled_and_not_cut_off(data: bytes) -> None:
    grey = np.asarray(read_rgb(data, "it"))[..., 0].astype(float)
    assert np.abs(grey - RAMP * 255).max() <= 1
    assert "scaled to 8" in remarks(data, "it")[0]


def xyz_profile() -> bytes:
    """A profile that is not sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(two_halves().quantize(4)), ["its colours come from a palette and are read as RGB"]),
        (palette_with_hole(), ["its transparent pixels are drawn over white",
                               "its colours come from a palette and are read as RGB"]),
        (encoded(two_halves().convert("CMYK"), "JPEG"), ["its CMYK colours are converted to RGB"]),
        (encoded(two_halves().convert("CMYK"), "TIFF"), ["its CMYK colours are converted to RGB"]),
        (encoded(two_halves().convert("YCbCr"), "TIFF"), ["its YCbCr colours are converted to RGB"]),
        (encoded(two_halves(), icc_profile=xyz_profile()), ["its colours are converted from its profile (XYZ identity "
                                                          "built-in) to sRGB"]),
        (encoded(two_halves(), icc_profile=b"no profile" * 9), ["its colour profile is damaged and not used"]),
        (encoded(two_halves(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), []),
        (encoded(two_halves()), []),
        (encoded(two_halves().convert("L"), "JPEG"), []),
        (encoded(two_halves().convert("YCbCr"), "JPEG"), []),
    ],
    ids=["palette", "palette-hole", "cmyk-jpeg", "cmyk-tiff", "ycbcr-tiff", "profile", "damaged", "srgb", "plain",
         "grey-jpeg", "jpeg"],
)  # fmt: skip
def test_what_becomes_of_its_colours_is_said_of_an_image(data: bytes, said: list[str]) -> None:
    assert remarks(data, "it") == said


def test_one_transparent_shade_of_16_bits_lies_on_the_background() -> None:
    samples = np.full((4, 4), 60000, dtype=np.uint16)
    samples[0, 0] = 0
    data = encoded(Image.fromarray(samples), transparency=0)
    image = read_rgb(data, "it", "black"), read_rgb(data, "it", "white")
    assert [corners(each)[0] for each in image] == [(0, 0, 0), WHITE]
    assert near(corners(image[0])[1], (233, 233, 233), 1)


def test_samples_that_are_no_numbers_are_refused() -> None:
    values = RAMP.astype(np.float32).copy()
    values[0, 0] = np.nan
    with pytest.raises(DataError, match=r"the depth map cannot be decoded .*NaN"):
        read_rgb(encoded(Image.fromarray(values), "TIFF"), "the depth map")


def lab() -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(two_halves(), to_lab)
    assert converted is not None
    return converted


@pytest.mark.parametrize(
    "data",
    [
        encoded(two_halves().quantize(4)),
        encoded(two_halves().convert("CMYK"), "JPEG", quality=95),
        encoded(two_halves().convert("CMYK"), "TIFF"),
        encoded(two_halves().convert("YCbCr"), "JPEG", quality=95),
        encoded(lab(), "TIFF"),
        encoded(two_halves(), "BMP"),
        encoded(two_halves(), icc_profile=b"no profile" * 9),
        encoded(two_halves(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    ],
    ids=["palette", "cmyk-jpeg", "cmyk-tiff", "ycbcr", "lab", "bmp", "damaged-profile", "srgb-profile"],
)
def test_every_colour_space_gives_the_same_colours(data: bytes) -> None:
    upper, lower = corners(read_rgb(data, "it"))
    assert near(upper, RED, 30) and near(lower, BLUE, 30)  # LAB in 8 bits is coarse


def exchanged_primaries() -> bytes:
    """A profile of a space whose red is sRGB's blue, and the other way round."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")):
        profile = profile.replace(old, new)
    return profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize(
    "image", [two_halves(), with_alpha(255), two_halves().quantize(4)], ids=["rgb", "rgba", "palette"]
)
def test_a_colour_profile_is_converted_to_srgb(image: Image.Image) -> None:
    upper, lower = corners(read_rgb(encoded(image, icc_profile=exchanged_primaries()), "it"))
    assert near(upper, BLUE) and near(lower, RED)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame_and_that_is_said(kind: str) -> None:
    frames = [two_halves(), two_halves().transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert near(corners(read_rgb(data, "it"))[0], RED)
    assert remarks(data, "it")[0] == "it has 2 frames; the first is used"


def test_an_ordinary_image_keeps_its_pixels_and_needs_no_remark() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(read_rgb(data, "it")), pixels)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(pixels))), pixels)
    assert remarks(data, "it") == []


@pytest.mark.parametrize("data", [b"", b"hello", encoded(two_halves(), "JPEG")[:300], encoded(two_halves(), "PPM")])
def test_what_is_no_whole_image_of_a_known_format_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"image 2 of row 7 cannot be decoded .*expected a complete PNG, JPEG"):
        read_rgb(data, "image 2 of row 7")


def test_a_huge_image_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(DataError, match="at most 100 pixels"):
        read_rgb(encoded(two_halves()), "it", max_pixels=100)


def test_an_ordinary_image_is_shown_unchanged_and_any_other_as_it_is_read() -> None:
    plain = encoded(Image.new("RGB", (3, 2), "red"), "PNG")
    rotated = encoded(Image.new("RGB", (3, 2), "red"), "JPEG", exif=turned(6))
    clear = encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 0)), "PNG")
    assert shown_bytes(plain, "it") is plain
    for data in (rotated, clear, encoded(Image.new("RGB", (3, 2)), "GIF")):
        shown = Image.open(io.BytesIO(shown_bytes(data, "it")))
        assert (shown.format, shown.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(shown), np.asarray(read_rgb(data, "it")))
