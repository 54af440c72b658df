"""Training examples as the model will see them: tokens, label mask, latent span, and the cells of its k targets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from mirage_core.config import LatentSettings
from mirage_core.types import TrainingExample

if TYPE_CHECKING:
    from torch import Tensor

    from mirage_core.latent.encoder import Encoder

Part = Literal["prompt", "image", "latent", "supervised"]
_TINTS = ((230, 57, 70), (29, 120, 200), (250, 163, 7), (42, 157, 100), (131, 56, 236), (0, 180, 180))
_LONG_RUN = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of tokens of one part: their text, and how many they are."""

    part: Part
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Preview:
    """One example: its pieces in order, the auxiliary image as PNG with its target cells, and figures.

    ``cells`` [rows, columns] says which latent each merged patch of the auxiliary image is averaged into, -1: none.
    """

    problem_id: str
    benchmark: str
    group: str
    split: str
    pieces: tuple[Piece, ...]
    images: tuple[bytes, ...]
    auxiliary_image: bytes
    cells: tuple[tuple[int, ...], ...]
    tokens: int
    supervised: int
    teacher: str


def preview(example: TrainingExample, encoder: Encoder, processor: Any, latent: LatentSettings) -> Preview:
    """Encode an example as training does, and take it apart for people.

    Raises what encoding raises, and InputError when the auxiliary image has fewer merged patches than latents.
    """
    from mirage_core.latent.examples import IGNORED
    from mirage_core.latent.tokens import token_ids

    encoded, ids = encoder.example(example, with_latents=True), token_ids(processor.tokenizer)
    labels = encoded.labels.tolist()
    kinds: list[tuple[Part, int]] = []
    for token, label in zip(encoded.ids.tolist(), labels, strict=True):
        plain: Part = "prompt" if label == IGNORED else "supervised"
        kinds.append(({ids.image_pad: "image", ids.latent_pad: "latent"}.get(token, plain), token))  # type: ignore[arg-type]
    merge, kept = processor.image_processor.merge_size, encoded.auxiliary_kept
    cells = target_cells(encoded.auxiliary_grid_thw[0].tolist(), merge, latent, kept[0] if kept else None)
    return Preview(
        problem_id=example.problem.id,
        benchmark=example.problem.benchmark,
        group=example.problem.group,
        split=example.problem.split,
        pieces=tuple(_pieces(kinds, processor.tokenizer)),
        images=example.problem.images,
        auxiliary_image=with_cells(example.auxiliary_image.image, cells),
        cells=tuple(tuple(int(cell) for cell in row) for row in cells),
        tokens=len(labels),
        supervised=sum(label != IGNORED for label in labels),
        teacher=example.chain.teacher,
    )


def target_cells(grid_thw: Sequence[int], merge: int, latent: LatentSettings, kept: Tensor | None = None) -> np.ndarray:
    """The latent each merged patch is averaged into, [rows, columns], -1 where none: what ``compress`` does.

    ``kept`` [rows * columns]: which patches targets are made of; None: all. Of latents that share one the first.
    """
    from mirage_core.latent.compress import compress

    rows, columns = grid_thw[1] // merge, grid_thw[2] // merge
    import torch

    patches = torch.eye(rows * columns)
    averaged = compress(patches if kept is None else patches[kept], latent.num_latents, latent.compression)  # [K, P]
    used = averaged.sum(0) > 0
    return torch.where(used, averaged.argmax(0), -1).reshape(rows, columns).numpy()


def with_cells(picture: bytes, cells: np.ndarray) -> bytes:
    """The picture as PNG, every merged patch tinted and numbered by the latent it goes into."""
    shown = Image.open(io.BytesIO(picture)).convert("RGBA")
    shown = shown.resize((max(shown.width, 320), round(shown.height * max(shown.width, 320) / shown.width)))
    sheet = Image.new("RGBA", shown.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(sheet)
    height, width = shown.height / cells.shape[0], shown.width / cells.shape[1]
    for (row, column), latent in np.ndenumerate(cells):
        box = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        tint = _TINTS[int(latent) % len(_TINTS)] if latent >= 0 else (90, 90, 90)
        draw.rectangle(box, fill=(*tint, 60), outline=(*tint, 200))
        if min(height, width) >= 12:
            draw.text((box[0] + 3, box[1] + 1), str(latent) if latent >= 0 else "-", fill=(*tint, 255))
    buffer = io.BytesIO()
    Image.alpha_composite(shown, sheet).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def preview_page(previews: Sequence[Preview], title: str) -> str:
    """A self-contained HTML page of previews."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).with_name("templates")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = data_url
    return environment.get_template("preview.html").render(previews=previews, title=title)


def data_url(picture: bytes) -> str:
    """An encoded picture as a data URL."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _pieces(kinds: Sequence[tuple[Part, int]], tokenizer: Any) -> list[Piece]:
    pieces = []
    for part, run in groupby(kinds, key=lambda kind: kind[0]):
        tokens = [token for _, token in run]
        text = tokenizer.decode(tokens)
        if part in ("image", "latent") and len(tokens) > _LONG_RUN:
            text = f"{tokenizer.decode(tokens[:1])} x {len(tokens)}"
        pieces.append(Piece(part, text, len(tokens)))
    return pieces
