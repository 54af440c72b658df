"""Encoded images as RGB, as a viewer shows them: the one reader of training, evaluation, reports and people's own data.

Orientation (EXIF) is applied, colour profiles are converted to sRGB, transparent pixels lie on a background, samples of
16 or 32 bits are scaled to 8, and an animation is its first frame. Broken and oversized files are refused.
"""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mirage_core.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names; a file's content decides, not its name."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 80_000_000
"""HR-Bench 8K images have 33 million; Pillow itself warns from 89 million on."""

Background = Literal["white", "black"]
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""The EXIF orientations that exchange width and height."""
_EXPECTED = "expected a complete PNG, JPEG, WebP, GIF, BMP or TIFF file"


def read_header(data: bytes, what: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding it. DataError, naming ``what``, if it is broken or has too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _decode_error(what, "it begins as no image of these formats does") from error
    except Exception as error:  # Pillow raises many kinds of errors, and a warning, for broken files
        raise _decode_error(what, error) from error
    if image.width * image.height > max_pixels:
        raise DataError(
            f"{what} is {image.width}x{image.height}; at most {max_pixels} pixels are read. Scale the image down."
        )
    return image


def read_rgb(data: bytes, what: str, background: Background = "white", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB, the way up that its EXIF data tell. DataError as for ``read_header``."""
    image = read_header(data, what, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of damaged metadata, which is not used then
            return to_rgb(image, background)
    except Exception as error:
        raise _decode_error(what, error) from error


def to_rgb(image: Image.Image, background: Background = "white") -> Image.Image:
    """Return a decoded image as RGB, as ``read_rgb`` does with that of a file; ValueError for samples not finite."""
    return ImageOps.exif_transpose(_to_rgb(image, background))


def displayed_size(data: bytes, what: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height of what ``read_rgb`` returns, from the header alone. DataError as there."""
    image = read_header(data, what, max_pixels)
    turned = _orientation(image) in _TURNED
    return (image.height, image.width) if turned else (image.width, image.height)


def remarks(data: bytes, what: str, background: Background = "white") -> list[str]:
    """Return what a person should know about how an image is read; empty for an ordinary one. DataError as above."""
    image = read_header(data, what)
    notes = []
    frames = _frames(image)
    if frames > 1 and image.format != "MPO":
        notes.append(f"it has {frames} frames; the first is used")
    if _orientation(image) not in (0, 1):
        notes.append("it is turned as its EXIF orientation tells")
    if image.has_transparency_data:
        notes.append(f"its transparent pixels are drawn over {background}")
    if image.mode.startswith(("I", "F")):
        notes.append("its samples have more than 8 bits and are scaled to 8")
    return [*notes, *_colour_remarks(image)]


def _colour_remarks(image: Image.Image) -> list[str]:
    """Return how the colours of an image become RGB, where they are stored in another way."""
    notes = []
    if image.mode in ("P", "PA"):
        notes.append("its colours come from a palette and are read as RGB")
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"its {image.mode} colours are converted to RGB")
    if image.mode.startswith(("I", "F")) or image.mode == "LAB" or not image.info.get("icc_profile"):
        return notes
    name = _profile_name(image)
    if name is None:
        notes.append("its colour profile is damaged and not used")
    elif "sRGB" not in name:
        notes.append(f"its colours are converted from its profile ({name}) to sRGB")
    return notes


def shown_bytes(data: bytes, what: str, background: Background = "white") -> bytes:
    """Return an encoded image that any viewer shows as ``read_rgb`` decodes it. DataError as above.

    An ordinary PNG or JPEG is unchanged, others become PNG.
    """
    image = read_header(data, what)
    ordinary = image.format in ("PNG", "JPEG") and image.mode in ("RGB", "L") and not remarks(data, what)
    if ordinary and _profile(image) is None:
        return data
    buffer = io.BytesIO()
    read_rgb(data, what, background).save(buffer, "PNG")
    return buffer.getvalue()


def _decode_error(what: str, error: Exception | str) -> DataError:
    return DataError(f"{what} cannot be decoded ({error}); {_EXPECTED}.")


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged after the first frame, which is the one that is used
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata: the image is shown as it is stored
        return 1


def _to_rgb(image: Image.Image, background: Background) -> Image.Image:
    """Return an image's first frame as RGB with its EXIF data."""
    image.load()
    exif = image.getexif()
    if image.mode.startswith("I") or image.mode == "F":
        rgb = _scaled_to_8_bits(np.asarray(image))
        if image.has_transparency_data:  # one shade of grey is transparent
            rgb.paste(background, mask=Image.fromarray(np.asarray(image) == image.info["transparency"]))
    elif image.mode == "LAB":
        rgb = _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    elif image.has_transparency_data:
        rgb = _over(_with_profile(image.convert("RGBA"), image), background)
    else:
        rgb = _with_profile(image, image).convert("RGB")
    rgb.info["exif"] = exif.tobytes()
    return rgb


def _scaled_to_8_bits(samples: np.ndarray) -> Image.Image:
    """Scale grey samples: 16-bit integers from their type's range, floats from 0..1 or 0..255, others from their own.

    ValueError for samples that are not finite.
    """
    values = samples.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has samples that are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    is_float = np.issubdtype(samples.dtype, np.floating)
    tops = (1.0, 255.0) if is_float else (65535.0,)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    bottom, top = (0.0, top) if top is not None else (low, high)
    scaled = (values - bottom) / ((top - bottom) or 1.0) * 255.0
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _over(image: Image.Image, background: Background) -> Image.Image:
    """Draw an RGBA image over a plain background."""
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")


def _with_profile(image: Image.Image, original: Image.Image) -> Image.Image:
    """Return an image with its colours in sRGB; one without a profile, with sRGB or with a damaged one is unchanged."""
    profile = _profile(original)
    try:
        if profile is None or image.mode != "RGBA":
            return image if profile is None else _converted(image, profile)
        rgb = _converted(image.convert("RGB"), profile)
        rgb.putalpha(image.getchannel("A"))
        return rgb
    except (ImageCms.PyCMSError, OSError):
        return image


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the colour profile that an image is converted from; None for none, sRGB or a damaged one."""
    name = _profile_name(image)
    return None if name is None or "sRGB" in name else _stored_profile(image)


def _profile_name(image: Image.Image) -> str | None:
    """Return what a stored colour profile calls itself in one line; None for none or a damaged one."""
    if not image.info.get("icc_profile"):
        return None
    try:
        return " ".join(ImageCms.getProfileDescription(_stored_profile(image)).split())[:60]
    except (ImageCms.PyCMSError, OSError):
        return None


def _stored_profile(image: Image.Image) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Return an image of a profile's colour space as RGB in sRGB; ImageCms.PyCMSError where the two do not fit."""
    if image.mode in ("P", "1"):
        image = image.convert("RGB")
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted
