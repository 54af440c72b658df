"""Rows of a JSONL file and the images beside it, fully validated.

Every fault is a DataError that names the file, the line and the way out.
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.json_values import read_json

_ROOTS = 4
"""Folders above a file that may be the root of its repository."""
_REPOSITORY_FOLDERS = 2
"""First folders of a name that data moved out of their repository may lack."""
_LONGEST_NAME = 1_000
MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 32_000_000
# For benchmarks about large images (HR-Bench 8K: 33 million pixels); Pillow itself warns from 89 million on.
LARGE_IMAGE_PIXELS = 80_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a JSONL file and its location."""

    file: Path
    line: int
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The file and line, for messages."""
        return f"{self.file}, line {self.line}"

    def text(self, key: str) -> str:
        """A text of the row, as ``plain_text``; DataError if the key is missing or has another type."""
        return plain_text(self._string(key, self._value(key)))

    def file_name(self, key: str) -> str:
        """The name of one file, to the letter, also as a list of one (the README of Mirage); DataError otherwise."""
        value = self._value(key)
        return self._string(key, value[0] if isinstance(value, list) and len(value) == 1 else value)

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise DataError(f"{self.where}: the key {key!r} is missing (it has {sorted(self.values)}); add it")
        return self.values[key]

    def _string(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {key!r} is {type(value).__name__}, expected text; correct the row")
        return value


def plain_text(text: str) -> str:
    """A text in Unicode's composed form (NFC), with a line feed at each end of line."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def read_rows(file: Path) -> Iterator[Row]:
    """Yield every row of a JSONL file, without blank lines; DataError for a missing or empty file, or invalid JSON.

    A folder stands for the one JSONL file in it.
    """
    file = _file_in(file) if file.is_dir() else file
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}; expected a JSONL file in UTF-8") from error
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"{file} holds no rows; expected one JSON object a line")
    for number, line in rows:
        yield Row(file, number, _json_object(line, f"{file}, line {number}"))


def _file_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.jsonl"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{folder} holds these JSONL files: {names}; expected one, or name the file")
    return files[0]


def read_lines(file: Path) -> Iterator[Row | DataError]:
    """Yield every row of a JSONL file, or the error of its line; DataError if the file cannot be read."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield Row(file, number, _json_object(line, f"{file}, line {number}"))
                except DataError as error:
                    yield error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}; expected a JSONL file in UTF-8") from error


def _json_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = read_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); expected one JSON object a line") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(values).__name__}")
    return values


def read_question(row: Row) -> str:
    """The row's ``text_input``, with its one ``<image>``."""
    question = row.text("text_input")
    if question.count("<image>") != 1:
        raise DataError(
            f"{row.where}: text_input has {question.count('<image>')} times '<image>'; expected it once, "
            "at the position of the image"
        )
    return question


def read_image(row: Row, key: str = "image_input") -> tuple[bytes, Image.Image]:
    """The row's image, encoded and decoded; its path is relative to the file, or to a folder above it."""
    return read_image_file(row, key, row.file_name(key), from_root=True)


def read_image_file(
    row: Row, key: str, name: str, max_pixels: int = MAX_IMAGE_PIXELS, *, from_root: bool = False
) -> tuple[bytes, Image.Image]:
    """The image file ``name`` that the row's ``key`` names, encoded and decoded.

    ``from_root``: the name may also be relative to a folder above the row's file, as in published repositories.
    """
    path = _path_below(row, key, name)
    if not is_file(path):
        path = other_spelling(path) or path
    if not is_file(path) and from_root:
        path = _path_from_root(row.file.resolve().parent, name) or path
    if not is_file(path):
        roots = f", or below a folder above {row.file}" if from_root else ""
        raise DataError(f"{row.where}: the image {name!r} is missing; expected it at {path}{roots}")
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise DataError(f"{row.where}: {name!r} has {size} bytes; at most {MAX_IMAGE_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{row.where}: cannot read the image {name!r}: {error}") from error
    return data, decode_image(data, f"{row.where}: the image {name!r}", max_pixels)


def _path_below(row: Row, key: str, name: str) -> Path:
    """The path of an image; DataError if it is outside the file's folder, through ``..`` or a link."""
    folder = row.file.resolve().parent
    if len(name) > _LONGEST_NAME:
        raise DataError(f"{row.where}: {key!r} is {name[:40]!r}..., {len(name)} characters: no file has such a name")
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError) as error:
        raise DataError(f"{row.where}: {key!r} is not a file name: {name!r} ({error})") from error
    if not name or not path.is_relative_to(folder) or path == folder:
        raise DataError(f"{row.where}: {key!r} leaves the file's folder: {name!r}; copy the image beside the file")
    return path


def other_spelling(path: Path) -> Path | None:
    """A file whose name has the same letters in the other form of Unicode (macOS decomposes names)."""
    spellings = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((spelling for spelling in spellings if is_file(spelling)), None)


def is_file(path: Path) -> bool:
    """Whether there is such a file; none has a name that is too long."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _path_from_root(folder: Path, name: str) -> Path | None:
    """The path of an image that is named from the root of its repository, as VSP's rows are; None if there is none.

    Looked for below the folders above the file, and, for data that were moved out of their repository, where the name
    passes through a folder of the file's own name and without its first one or two folders ("data/vsp_planning").
    """
    parts = [part for part in Path(name).parts if part != "."]
    roots = list(folder.parents)[:_ROOTS]
    candidates = [(root, root.joinpath(*parts)) for root in roots]
    starts = [at + 1 for at, part in enumerate(parts[:-1]) if part == folder.name]
    starts += range(1, min(_REPOSITORY_FOLDERS, len(parts) - 1) + 1)
    candidates += [(folder, folder.joinpath(*parts[at:])) for at in starts]
    for root, candidate in candidates:
        resolved = candidate.resolve()
        if is_file(resolved) and resolved.is_relative_to(root):
            return resolved
    return None


def decode_image(data: bytes, what: str, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode an image completely, to RGB; too large ones are rejected before they are decompressed."""
    return read_rgb(data, what, max_pixels=max_pixels)
