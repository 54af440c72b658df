"""Rows of a published data set: a hub id, a folder or a file (parquet, JSON lines), read one at a time.

Images stay encoded; they are checked, and never decompressed beyond a limit. Hub ids need ``datasets``
(``pip install mirage-latent[train]``) and a network; everything else is read from the local disk.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mirage_core.benchmarks.io.jsonl import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    Row,
    decode_image,
    read_image_file,
)
from mirage_core.errors import DataError
from mirage_core.image_files import SUFFIXES

_BATCH = 64


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row and its location ("array/SAT test, row 12"); ``file`` is the local file it was read from."""

    where: str
    number: int
    values: Mapping[str, Any]
    file: Path | None = None

    def text(self, key: str) -> str:
        """A text of the row; DataError if the column is missing or has another type."""
        value = self.value(key)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {key!r} is {type(value).__name__}, expected text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts of the row; DataError otherwise."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(f"{self.where}: {key!r} is {str(value)[:60]!r}, expected a list of texts")
        return value

    def value(self, key: str) -> Any:
        """A value of the row; DataError lists the columns if it is missing."""
        if key not in self.values:
            raise DataError(f"{self.where}: the column {key!r} is missing (it has {sorted(self.values)})")
        return self.values[key]

    def image(self, value: Any, what: str, max_pixels: int = MAX_IMAGE_PIXELS) -> bytes:
        """The encoded bytes of an image in any of the published forms, checked.

        Bytes, {"bytes": ...}, base64 text, or the name of a PNG or JPEG beside the row's local file.
        """
        if isinstance(value, str) and self.file and value.lower().endswith(SUFFIXES):
            return read_image_file(Row(self.file, self.number, self.values), what, value, max_pixels)[0]
        data = _image_bytes(value)
        if data is None:
            raise DataError(f"{self.where}: {what} is {type(value).__name__}, expected the bytes of an image")
        if len(data) > MAX_IMAGE_BYTES:
            raise DataError(f"{self.where}: {what} has {len(data)} bytes; at most {MAX_IMAGE_BYTES} are read")
        decode_image(data, f"{self.where}: {what}", max_pixels)
        return data


def published_rows(source: str, *, config: str | None = None, split: str = "test") -> Iterator[PublishedRow]:
    """Yield every row of a data set, in order.

    ``source`` is a parquet or JSON-lines file, a folder of parquet files (those whose path names ``config`` and
    ``split``, all of them when none does), or a hub id. DataError when it is none of these or cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        yield from _file_rows(path)
    elif path.is_dir():
        for file in _files_of(path, config, split):
            yield from _file_rows(file)
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")):
        yield from _hub_rows(source, config, split)
    else:
        raise DataError(f"{source!r} is neither a local file or folder nor a hub id (owner/name): name a data set")


def _files_of(folder: Path, config: str | None, split: str) -> list[Path]:
    """The parquet files of a configuration and split, by the words in their paths."""
    files = sorted(folder.rglob("*.parquet")) or sorted(folder.rglob("*.jsonl"))
    if not files:
        raise DataError(f"{folder} holds no parquet and no JSON-lines file: expected a data set's folder")
    for word in filter(None, (config, split)):
        matching = [file for file in files if word.casefold() in _words(file.relative_to(folder))]
        files = matching or files
    return files


def _words(path: Path) -> set[str]:
    """The words of a relative path: "Jigsaw/val-00000-of-00001.parquet" gives jigsaw, val, ..."""
    text = path.with_suffix("").as_posix().casefold()
    for separator in "/.-_":
        text = text.replace(separator, " ")
    return {*text.split(), *path.with_suffix("").as_posix().casefold().split("/")}


def _file_rows(file: Path) -> Iterator[PublishedRow]:
    rows = _json_lines(file) if file.suffix in (".jsonl", ".json") else _parquet_rows(file)
    for number, values in enumerate(rows, start=1):
        yield PublishedRow(f"{file}, row {number}", number, values, file)


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise DataError(f"cannot read {file}: {error}; expected a parquet file") from error


def _json_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number}: not valid JSON ({error})") from error
            if not isinstance(values, dict):
                raise DataError(f"{file}, line {number}: expected a JSON object, got {type(values).__name__}")
            yield values


def _hub_rows(source: str, config: str | None, split: str) -> Iterator[PublishedRow]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"the data set {source} comes from the hub, which needs the package datasets: "
            "pip install 'mirage-latent[train]', or give a local folder"
        ) from error
    try:
        table = datasets.load_dataset(source, config, split=split, streaming=True)
        for name, feature in (table.features or {}).items():
            encoded = _encoded_feature(feature)
            if encoded != feature:
                table = table.cast_column(name, encoded)
        rows = iter(table)
    except Exception as error:  # the library raises errors of many kinds, network errors included
        raise DataError(
            f"the data set {source} ({config or 'no configuration'}, {split}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Without a network, give a local folder with its parquet files"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield PublishedRow(f"{source} {split}, row {number}", number, values)


def _encoded_feature(feature: Any) -> Any:
    """A feature of the library ``datasets`` with its images left encoded, in lists and structures too."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, dict):
        return {name: _encoded_feature(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_encoded_feature(inner) for inner in feature]
    inner = getattr(feature, "feature", None)  # of List, LargeList and Sequence
    return feature if inner is None else dataclasses.replace(feature, feature=_encoded_feature(inner))


def hub_folder(source: str) -> Path:
    """Download all files of a hub data set into a local folder, for data sets whose rows name files."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, repo_type="dataset"))
    except Exception as error:  # network errors of many kinds
        raise DataError(
            f"the data set {source} cannot be loaded: {type(error).__name__}: {error}. Without a network, give a local "
            "folder with its files"
        ) from error


def _image_bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    return bytes(value) if isinstance(value, bytes | bytearray) else None
