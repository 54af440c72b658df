"""What the latents of one answer imagine, for a reply: places with their probabilities, kinds, a small picture.

Beside it the true film of a problem whose world is known.

Legend: D hidden.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from mirage_core.analysis.imagined.reading import ImaginationReader, SeenImage
from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.imagined.truth import TrueFilm
from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.reports.drawings import data_uri
from mirage_core.reports.film_strip import imagined_frame, step_words
from mirage_core.types import Problem
from mirage_core.worlds.maze import read_maze

SIDE = 144
_LEAST = 0.01
_COLOURS = 96


class Film:
    """Reads and draws the latents of answers to one prompt, over its first picture; where there is none, without."""

    def __init__(self, reader: ImaginationReader, prompt: EncodedPrompt, images: Sequence[bytes]) -> None:
        self._reader, self._prompt, self._images = reader, prompt, images

    def frame(self, index: int, span: int, latent: Tensor) -> dict[str, Any]:
        """Return what ``latent`` [D], as it was fed, imagines. ``index``: its number in the answer, ``span``: its span.

        Rows and columns are counted from 0; of the cells those of at least 1 %, the likeliest first. ``place`` is the
        likeliest of all places, which a small map may not have.
        """
        (read,) = self._reader.film(self._problem, latent[None], self._seen)
        step = read.model_copy(update={"index": index})
        frame: dict[str, Any] = {"index": index, "span": span, "caption": step_words(step)}
        if step.place is not None:
            frame |= {"place": list(step.place), "shape": [len(step.places), len(step.places[0])]}
            frame["cells"] = _cells(step)
        if step.kinds:
            frame["kinds"] = [kind.model_dump() for kind in step.kinds]
        if self._image is not None:
            frame["picture"] = _picture(imagined_frame(self._image, step, SIDE))
        return frame

    @cached_property
    def _seen(self) -> SeenImage | None:
        return self._reader.seen([self._prompt])[0]

    @cached_property
    def _image(self) -> Image.Image | None:
        return read_rgb(self._images[0], "an image of the request") if self._images else None

    @cached_property
    def _problem(self) -> Problem:
        """The question as heads want it: with the map, whose size they need, where the picture shows one."""
        facts: dict[str, Any] = {}
        if self._image is not None:
            with suppress(DataError):
                facts["map"] = read_maze(self._image, self._reader.settings.problems.cell_px).rows()
        images = tuple(self._images)
        return Problem(
            id="request", benchmark="", split="test", group="own", question="", images=images, answer="", facts=facts
        )


def true_frames(reader: ImaginationReader, problem: Problem, count: int) -> list[dict[str, Any] | None]:
    """Return the frame of a problem's true film that each of ``count`` latents is held to; None where it is to none.

    A frame has its number, a small picture, the places (row, column) that it changes, and what is there, as far as the
    heads of ``reader`` are asked for them.
    """
    truth, frames = reader.truth(problem, count)
    shown = {number: _true_frame(truth, number) for number in frames if number is not None}
    return [None if number is None else shown[number] for number in frames]


def _true_frame(truth: TrueFilm, number: int) -> dict[str, Any]:
    places, kind = truth.places[number], truth.kinds[number]
    words = " or ".join(f"row {row + 1}, column {column + 1}" for row, column in places[:3])
    image = read_rgb(truth.images[number], "a true frame")
    height = max(1, round(image.height * SIDE / image.width))
    return {
        "frame": number,
        "places": [list(place) for place in places],
        "kind": kind,
        "caption": ", ".join(part for part in (words, kind) if part),
        "picture": _picture(image.resize((SIDE, height), Image.Resampling.LANCZOS)),
    }


def _cells(step: ImaginedStep) -> list[dict[str, Any]]:
    """The places that a latent points at, the likeliest first."""
    cells = [
        {"row": row, "column": column, "probability": probability}
        for row, line in enumerate(step.places)
        for column, probability in enumerate(line)
        if probability >= _LEAST
    ]
    return sorted(cells, key=lambda cell: -cell["probability"])


def _picture(image: Image.Image) -> str:
    """A picture of few colours as a data URI: some kilobytes."""
    buffer = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")
