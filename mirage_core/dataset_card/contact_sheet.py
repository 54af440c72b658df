"""A contact sheet: a few examples of every benchmark and group with their images, as PNG and HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from mirage_core.image_files import read_rgb
from mirage_core.types import TrainingExample

_TILE, _LINE, _GAP = 180, 16, 10


def contact_sheet(examples: Sequence[TrainingExample]) -> bytes:
    """Draw a sample as one PNG: a row for each example, its images, then the auxiliary image in a red frame."""
    columns = max((len(example.problem.images) + 1 for example in examples), default=1)
    height = _TILE + _LINE + _GAP
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, max(1, len(examples)) * height + _GAP), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row, example in enumerate(examples):
        top = _GAP + row * height
        problem = example.problem
        draw.text((_GAP, top), f"{problem.id}   answer {problem.answer}"[: columns * 30], fill=(40, 40, 40))
        for column, data in enumerate((*problem.images, example.auxiliary_image.image)):
            tile = _thumbnail(data)
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(tile, (left, top + _LINE))
            if column == len(problem.images):
                box = (left - 2, top + _LINE - 2, left + tile.width + 1, top + _LINE + tile.height + 1)
                draw.rectangle(box, outline=(200, 30, 30), width=2)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def contact_page(examples: Sequence[TrainingExample], title: str) -> str:
    """Render the same sample as a self-contained page, with questions and chains."""
    from jinja2 import Environment, FileSystemLoader

    from mirage_core.dataset_card.preview import data_url

    folder = Path(__file__).with_name("templates")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = data_url
    return environment.get_template("contact_sheet.html").render(examples=examples, title=title)


def _thumbnail(data: bytes) -> Image.Image:
    return ImageOps.contain(read_rgb(data, "an image of the contact sheet"), (_TILE, _TILE))
