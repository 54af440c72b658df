"""Rows of a published data set: a hub id, a folder or a file (parquet, JSON lines), read one at a time.

Images stay encoded; they are checked, and never decompressed beyond a limit. Hub ids need ``datasets``
(``pip install mirage-latent[train]``) and a network; everything else is read from the local disk.
"""

from __future__ import annotations

import base64
import binascii
import csv
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirage_core.benchmarks.io.jsonl import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    Row,
    decode_image,
    plain_text,
    read_image_file,
)
from mirage_core.errors import DataError
from mirage_core.image_files import SUFFIXES
from mirage_core.json_values import read_json, refuse_halves

_BATCH = 64
_CHUNK = 2**20
"""Characters of a JSON list that are read at once."""
_BETWEEN = re.compile(r"[\s,]*")
_FORMATS = (".parquet", ".jsonl", ".json", ".tsv")
"""Of a folder's files those of the first kind that it holds are read."""
_SPLITS = {"train", "test", "val", "validation", "dev", "static", "4k", "8k", "hrbench_4k", "hrbench_8k"}
"""Words in a file's path that name a part of a data set."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row and its location ("array/SAT test, row 12"); ``file`` is the local file it was read from."""

    where: str
    number: int
    values: Mapping[str, Any]
    file: Path | None = None

    def text(self, key: str) -> str:
        """A text of the row, as ``plain_text``; DataError if the column is missing or has another type."""
        value = self.value(key)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {key!r} is {type(value).__name__}, expected text")
        return plain_text(value)

    def texts(self, key: str) -> list[str]:
        """A list of texts of the row; DataError otherwise."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(f"{self.where}: {key!r} is {str(value)[:60]!r}, expected a list of texts")
        return [plain_text(item) for item in value]

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

    ``source`` is a file (parquet, JSON lines, a JSON list, TSV), a folder of such files (those whose path names
    ``config`` and ``split``; all of them when no path names any), or a hub id. DataError when it is none of these,
    holds other splits only, or cannot be read.
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
    """The files of a configuration and split, by the words in their paths; DataError if all are of other splits."""
    files = next((found for suffix in _FORMATS if (found := sorted(folder.rglob(f"*{suffix}")))), [])
    if not files:
        raise DataError(f"{folder} holds no parquet, JSON or TSV file: expected a data set's folder")
    if config is not None:
        files = [file for file in files if config.casefold() in _words(file.relative_to(folder))] or files
    matching = [file for file in files if split.casefold() in _words(file.relative_to(folder))]
    other = sorted({word for file in files for word in _words(file.relative_to(folder)) & _SPLITS})
    if not matching and other:
        raise DataError(
            f"{folder} holds no file of the split {split!r}, but of {', '.join(other)} ({files[0].name}, ...): "
            f"download the files of {split!r} too, or name the file to read"
        )
    return matching or files


def _words(path: Path) -> set[str]:
    """The words of a relative path: "Jigsaw/val-00000-of-00001.parquet" gives jigsaw, val, ..."""
    text = path.with_suffix("").as_posix().casefold()
    for separator in "/.-_":
        text = text.replace(separator, " ")
    return {*text.split(), *path.with_suffix("").as_posix().casefold().split("/")}


def _file_rows(file: Path) -> Iterator[PublishedRow]:
    readers = {".jsonl": _json_lines, ".json": _json_rows, ".tsv": _tsv_rows}
    rows = readers.get(file.suffix, _parquet_rows)(file)
    with as_utf8(file):
        for number, values in enumerate(rows, start=1):
            yield PublishedRow(f"{file}, row {number}", number, values, file)


@contextmanager
def as_utf8(file: Path) -> Iterator[None]:
    """Turn the errors of reading a file of texts into a DataError that names it."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}; expected text in UTF-8") from error


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {file}: {error}; expected a parquet file") from error


def _json_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = read_json(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: not valid JSON ({error})") from error
            if not isinstance(values, dict):
                raise DataError(f"{file}, line {number}: expected a JSON object, got {type(values).__name__}")
            yield values


def _json_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON list, or of JSON lines."""
    yield from json_list(file) if is_json_list(file) else _json_lines(file)


def is_json_list(file: Path) -> bool:
    """Whether a file's first character, but for spaces, opens a list."""
    with file.open(encoding="utf-8-sig") as stream:
        return stream.read(_CHUNK).lstrip()[:1] == "["


def json_list(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON list one at a time (Visual-CoT's has 2.8 GB); DataError names the one at fault."""
    decoder, number = json.JSONDecoder(), 0
    with file.open(encoding="utf-8-sig") as stream:
        text = stream.read(_CHUNK)
        at = text.index("[") + 1
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty text too
            if text.startswith("]", at):
                return
            try:
                began = at
                value, at = decoder.raw_decode(text, at)
            except RecursionError as error:
                raise DataError(f"{file}, object {number + 1}: it is nested too deeply") from error
            except ValueError as error:
                more = stream.read(max(_CHUNK, len(text) - at))  # twice as much each time: long objects stay linear
                if not more:
                    raise DataError(f"{file}, object {number + 1}: not valid JSON ({error})") from error
                text, at = text[at:] + more, 0
                continue
            number += 1
            if not isinstance(value, dict):
                raise DataError(f"{file}, object {number}: expected a JSON object, got {type(value).__name__}")
            try:
                refuse_halves(value, text[began:at])
            except ValueError as error:
                raise DataError(f"{file}, object {number}: {error}") from error
            yield value


def _tsv_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a TSV file with a header, as VLMEvalKit's benchmarks are published."""
    csv.field_size_limit(sys.maxsize)  # images in base64 are longer than the module's limit
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, values in enumerate(csv.DictReader(lines, delimiter="\t"), start=1):
            if None in values or None in values.values():
                raise DataError(f"{file}, row {number}: it has more or fewer fields than the header")
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
