"""Parquet tables whose bytes depend on their rows and schema only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirage_core.errors import DataError

# Rows hold images: only this many are in memory at a time beside the records themselves.
ROWS_PER_GROUP = 256


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows (their keys are the schema's columns) as parquet; equal rows and schemas give equal bytes.

    Raises DataError for a row with other keys or with a value that does not fit its column's type.
    """
    plain = schema.remove_metadata()
    checked = (_checked_row(number, row, schema) for number, row in enumerate(rows))
    with pq.ParquetWriter(path, plain, compression="zstd", store_schema=False, version="2.6") as writer:
        while group := list(islice(checked, ROWS_PER_GROUP)):
            writer.write_table(_table(group, plain, path), row_group_size=ROWS_PER_GROUP)


def _table(rows: list[Mapping[str, Any]], schema: pa.Schema, path: Path) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path.name}: a value does not fit its column: {error}") from error


def read_table(path: Path, *, equal: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Read the rows whose columns equal the values in ``equal`` (all, without); DataError names a broken file."""
    return list(_rows(path, None, equal or {}))


def count_rows(path: Path) -> int:
    """Count the rows of a table without reading them; DataError names a broken file."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet table: {error}") from error


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns, in their order; DataError names a broken file."""
    return list(_schema(path).names)


def read_columns(path: Path, schema: pa.Schema, *, equal: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Read rows of a table that must have the schema's columns and types; DataError names what differs."""
    return list(iter_columns(path, schema, equal=equal))


def iter_columns(path: Path, schema: pa.Schema, *, equal: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that must have the schema's columns and types; DataError names what differs."""
    stored = _schema(path)
    wrong = [field.name for field in schema if field.name not in stored.names]
    wrong += [f.name for f in schema if f.name in stored.names and not _same_type(stored.field(f.name).type, f.type)]
    if wrong:
        raise DataError(f"{path} lacks the columns {', '.join(wrong)} in their types: it is not a table of this kind")
    return _rows(path, schema.names, equal or {})


def _rows(path: Path, columns: Sequence[str] | None, equal: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield rows a few hundred at a time, so that a table of images is never in memory twice."""
    try:
        with pq.ParquetFile(path) as file:
            selected = None if columns is None else list(columns)
            # Group by group: iter_batches over the whole file does not free its memory until the end.
            for group in range(file.num_row_groups):
                batch = file.read_row_group(group, columns=selected)
                for name, value in equal.items():
                    batch = batch.filter(pc.equal(batch.column(name), value))
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet table: {error}") from error
    finally:
        pa.default_memory_pool().release_unused()


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet table: {error}") from error


def _same_type(stored: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        return pa.types.is_list(stored) and stored.value_type == expected.value_type
    return bool(stored == expected)


def _checked_row(number: int, row: Mapping[str, Any], schema: pa.Schema) -> Mapping[str, Any]:
    if set(row) != set(schema.names):
        raise DataError(f"row {number} has the columns {sorted(row)}, expected {sorted(schema.names)}")
    missing = [field.name for field in schema if not field.nullable and row[field.name] is None]
    if missing:
        raise DataError(f"row {number} has no value for {', '.join(missing)}")
    return row
