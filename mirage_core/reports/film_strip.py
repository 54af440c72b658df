"""The imagined film in pictures: the input with the places that each latent points at, beside the true frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from mirage_core.analysis.imagined.records import ImaginedStep, Place
from mirage_core.reports.drawings import NEUTRAL_COLOUR, RIGHT_COLOUR, WRONG_COLOUR, image_uri, open_image

SIDE = 84
GIF_SIDE = 196
GIF_MS = 900
_FADE = 0.45
_GLOW = (255, 138, 0)
_GAP = 14
_LINE = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class StripFrame:
    """One step of a film for a page: what was imagined and the true frame as data URIs, and captions."""

    imagined: str
    true: str | None
    caption: str
    verdict: str


def strip_frames(
    film: Sequence[ImaginedStep], image: Image.Image | None, frames: Sequence[bytes], side: int = SIDE
) -> list[StripFrame]:
    """Draw each step ``side`` pixels wide; ``frames``: the true film, empty where it is not known."""
    return [
        StripFrame(
            imagined="" if image is None else image_uri(imagined_frame(image, step, side), side),
            true=_true(step, frames, side),
            caption=step_words(step),
            verdict={True: "right", False: "wrong", None: "unjudged"}[step.right],
        )
        for step in film
    ]


def imagined_frame(image: Image.Image, step: ImaginedStep, side: int) -> Image.Image:
    """Draw the image, faded, with its places lit by their probability.

    The likeliest place is framed: green if it is right, red if not, blue where the truth is not known. A wrong one has
    a thin green frame round the true places too.
    """
    height = max(1, round(image.height * side / image.width))
    base = ImageOps.grayscale(image).convert("RGB").resize((side, height), Image.Resampling.LANCZOS)
    base = Image.blend(base, Image.new("RGB", base.size, (255, 255, 255)), _FADE)
    if not step.places:
        return base
    colour = image.convert("RGB").resize(base.size, Image.Resampling.LANCZOS)
    shape = (len(step.places), len(step.places[0]))
    for row, line in enumerate(step.places):
        for column, probability in enumerate(line):
            box = _box((row, column), shape, base.size)
            cell = Image.blend(colour.crop(box), Image.new("RGB", _size(box), _GLOW), 0.35)
            base.paste(Image.blend(base.crop(box), cell, min(1.0, probability)), box)
    pen = ImageDraw.Draw(base)
    if step.place_right is False:
        for place in step.true_places:
            pen.rectangle(_inner(_box(place, shape, base.size)), outline=RIGHT_COLOUR, width=1)
    if step.place is not None and _on(step.place, shape):
        outline = {True: RIGHT_COLOUR, False: WRONG_COLOUR, None: NEUTRAL_COLOUR}[step.place_right]
        pen.rectangle(_inner(_box(step.place, shape, base.size)), outline=outline, width=max(2, side // 60))
    return base


def step_words(step: ImaginedStep) -> str:
    """What one latent imagines, in words; the truth where it is another."""
    words: list[str] = []
    if step.place is not None:
        row, column = step.place
        inside = _on(step.place, (len(step.places), len(step.places[0])))
        sure = f"{step.places[row][column]:.2f}" if inside else "not on the map"
        words.append(f"row {row + 1}, column {column + 1} ({sure})")
    if step.kinds:
        words.append(f"{step.kinds[0].name} ({step.kinds[0].probability:.2f})")
    truth: list[str] = []
    if step.place_right is False:
        truth.append(" or ".join(f"row {row + 1}, column {column + 1}" for row, column in step.true_places[:3]))
    if step.kind_right is False:
        truth.append(str(step.true_kind))
    return ", ".join(words) + (f"; true: {', '.join(truth)}" if truth else "")


def film_gif(film: Sequence[ImaginedStep], image: Image.Image, frames: Sequence[bytes], side: int = GIF_SIDE) -> bytes:
    """Return an animated GIF: what each latent imagines, on the left, beside the true frame, on the right, if known."""
    pages = [_gif_page(step, image, frames, side) for step in film]
    pages = [page.quantize(96, dither=Image.Dither.NONE) for page in pages]
    buffer = BytesIO()
    durations = [GIF_MS] * (len(pages) - 1) + [2 * GIF_MS]
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _gif_page(step: ImaginedStep, image: Image.Image, frames: Sequence[bytes], side: int) -> Image.Image:
    left = imagined_frame(image, step, side)
    known = bool(frames) and step.frame is not None
    width = side * (2 if known else 1) + _GAP * (3 if known else 2)
    page = Image.new("RGB", (width, left.height + 2 * _LINE + _GAP), (255, 255, 255))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    page.paste(left, (_GAP, _LINE))
    pen.text((_GAP, 6), f"latent {step.index + 1} imagines", fill=(40, 40, 40), font=font)
    if known and step.frame is not None:
        right = open_image(frames[step.frame], "a true frame").resize(left.size, Image.Resampling.LANCZOS)
        page.paste(right, (2 * _GAP + side, _LINE))
        pen.text((2 * _GAP + side, 6), f"true frame {step.frame + 1}", fill=(40, 40, 40), font=font)
    shade = {True: RIGHT_COLOUR, False: WRONG_COLOUR, None: (40, 40, 40)}[step.right]
    pen.text((_GAP, _LINE + left.height + 6), step_words(step), fill=shade, font=font)
    return page


def _true(step: ImaginedStep, frames: Sequence[bytes], side: int) -> str | None:
    return image_uri(frames[step.frame], side) if frames and step.frame is not None else None


def _on(place: Place, shape: tuple[int, int]) -> bool:
    return place[0] < shape[0] and place[1] < shape[1]


def _box(place: Place, shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    (row, column), (rows, columns), (width, height) = place, shape, size
    left, right = round(column * width / columns), round((column + 1) * width / columns)
    top, bottom = round(row * height / rows), round((row + 1) * height / rows)
    return left, top, right, bottom


def _inner(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return box[0], box[1], box[2] - 1, box[3] - 1


def _size(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
