"""What each code looks like: the patch nearest to it, all in one picture; read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from mirage_core.image_files import read_rgb

SHEET_FILE = "visual_codes.png"
"""Beside the codebook, and beside a model that writes its codes."""
TILE = 28
"""Sides of a patch in the sheet, in pixels."""
COLUMNS = 16
_UNKNOWN = (160, 160, 160)


@dataclass(frozen=True, slots=True)
class CodeSheet:
    """The patches of all codes: code c in row c // 16, column c % 16, each 28 x 28 pixels."""

    image: Image.Image

    @classmethod
    def of(cls, patches: Sequence[Image.Image]) -> CodeSheet:
        """Return the sheet of the codes' patches, in their order."""
        rows = -(-len(patches) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * TILE, rows * TILE), (255, 255, 255))
        for code, patch in enumerate(patches):
            sheet.paste(patch.resize((TILE, TILE), Image.Resampling.LANCZOS), _box(code)[:2])
        return cls(sheet)

    @classmethod
    def load(cls, folder: Path) -> CodeSheet | None:
        """Return the sheet in a folder; None of a model that writes no codes. DataError for a broken file."""
        file = folder / SHEET_FILE
        return cls(read_rgb(file.read_bytes(), str(file))) if file.is_file() else None

    def save(self, folder: Path) -> None:
        """Write the sheet into a folder."""
        buffer = BytesIO()
        self.image.save(buffer, "PNG")
        (folder / SHEET_FILE).write_bytes(buffer.getvalue())

    def strip(self, codes: Sequence[int], scale: int = 1) -> Image.Image:
        """Return the patches of some codes side by side, ``scale`` times as large.

        A number beyond the sheet is grey: a model can also write a code's name letter by letter.
        """
        strip = Image.new("RGB", (len(codes) * TILE, TILE), _UNKNOWN)
        for at, code in enumerate(codes):
            if code < COLUMNS * (self.image.height // TILE):
                strip.paste(self.image.crop(_box(code)), (at * TILE, 0))
        return strip.resize((strip.width * scale, TILE * scale), Image.Resampling.NEAREST)


def _box(code: int) -> tuple[int, int, int, int]:
    left, top = code % COLUMNS * TILE, code // COLUMNS * TILE
    return left, top, left + TILE, top + TILE
