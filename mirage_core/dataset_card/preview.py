"""Training examples as the model sees them: tokens, label mask, latent span, and the image cells of its k targets."""

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
from mirage_core.image_files import read_rgb, shown_bytes
from mirage_core.types import TrainingExample

if TYPE_CHECKING:
    from torch import Tensor

    from mirage_core.latent.encoder import Encoder

Part = Literal["prompt", "image", "latent", "supervised"]
_TINTS = ((230, 57, 70), (29, 120, 200), (250, 163, 7), (42, 157, 100), (131, 56, 236), (0, 180, 180))
_LONG_RUN = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of one part: their text and count."""

    part: Part
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Preview:
    """One example: its pieces in order, the auxiliary image as PNG with its target cells, and counts.

    ``cells`` [rows, columns]: the latent that each merged patch of the auxiliary image is averaged into, -1: none.
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
    """Encode an example as training does, and split it into readable pieces.

    Raises what encoding raises, and InputError if the auxiliary image has fewer merged patches than latents.
    """
    from mirage_core.latent.examples import IGNORED
    from mirage_core.latent.tokens import token_ids

    encoded, ids = encoder.example(example, with_latents=True), token_ids(processor.tokenizer)
    labels = encoded.labels.tolist()
    kinds: list[tuple[Part, int]] = []
    for token, label in zip(encoded.ids.tolist(), labels, strict=True):
        default: Part = "prompt" if label == IGNORED else "supervised"
        kinds.append(({ids.image_pad: "image", ids.latent_pad: "latent"}.get(token, default), token))  # type: ignore[arg-type]
    merge, masks = processor.image_processor.merge_size, encoded.auxiliary_patch_masks
    cells = target_cells(encoded.auxiliary_grid_thw[0].tolist(), merge, latent, masks[0] if masks else None)
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


def target_cells(grid_thw: Sequence[int], merge: int, latent: LatentSettings, mask: Tensor | None = None) -> np.ndarray:
    """Return the latent that ``compress`` averages each merged patch into, [rows, columns], -1: none.

    ``mask`` [rows * columns]: the patches that targets are made of; None: all. If latents share a patch, the first.
    """
    from mirage_core.latent.compress import compress

    rows, columns = grid_thw[1] // merge, grid_thw[2] // merge
    import torch

    patches = torch.eye(rows * columns)
    averaged = compress(patches if mask is None else patches[mask], latent.num_latents, latent.compression)  # [K, P]
    used = averaged.sum(0) > 0
    return torch.where(used, averaged.argmax(0), -1).reshape(rows, columns).numpy()


def with_cells(image: bytes, cells: np.ndarray) -> bytes:
    """Return the image as PNG, with every merged patch tinted and numbered by its latent."""
    shown = read_rgb(image, "an auxiliary image").convert("RGBA")
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
    """Render a self-contained HTML page of previews."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).with_name("templates")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = data_url
    return environment.get_template("preview.html").render(previews=previews, title=title)


def data_url(image: bytes) -> str:
    """Return an encoded image as a data URL that a browser shows as the model sees it."""
    image = shown_bytes(image, "an image")
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _pieces(kinds: Sequence[tuple[Part, int]], tokenizer: Any) -> list[Piece]:
    pieces = []
    for part, run in groupby(kinds, key=lambda kind: kind[0]):
        tokens = [token for _, token in run]
        text = tokenizer.decode(tokens)
        if part in ("image", "latent") and len(tokens) > _LONG_RUN:
            text = f"{tokenizer.decode(tokens[:1])} x {len(tokens)}"
        pieces.append(Piece(part, text, len(tokens)))
    return pieces
