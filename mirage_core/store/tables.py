"""Parquet tables whose bytes depend on their rows and schema only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirage_core.errors import DataError

ROWS_A_GROUP = 1000


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows (their keys are the schema's columns) as parquet; same rows and schema, same bytes.

    Raises DataError for a row with other keys or with a value that is not of its column's type.
    """
    listed = [_checked_row(number, row, schema) for number, row in enumerate(rows)]
    plain = schema.remove_metadata()
    try:
        table = pa.Table.from_pylist(listed, schema=plain)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as problem:
        raise DataError(f"{path.name}: a value does not fit its column: {problem}") from problem
    pq.write_table(table, path, compression="zstd", row_group_size=ROWS_A_GROUP, store_schema=False, version="2.6")


def read_table(path: Path, *, equal: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Read rows, only those whose columns are ``equal`` to the given values; DataError names a broken file."""
    filters = [(name, "=", value) for name, value in (equal or {}).items()]
    return _read(path, filters=filters or None).to_pylist()


def read_columns(path: Path, schema: pa.Schema, *, equal: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Read rows of a table that must have the schema's columns and types; DataError names what differs."""
    there = _schema(path)
    wrong = [field.name for field in schema if field.name not in there.names]
    wrong += [f.name for f in schema if f.name in there.names and not _alike(there.field(f.name).type, f.type)]
    if wrong:
        raise DataError(f"{path} lacks the columns {', '.join(wrong)} in their types: it is not a table of this kind")
    filters = [(name, "=", value) for name, value in (equal or {}).items()]
    return _read(path, columns=schema.names, filters=filters or None).to_pylist()


def _read(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=columns) if filters is None else _filtered(path, columns, filters)
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{path} is not a readable parquet table: {problem}") from problem


def _filtered(path: Path, columns: Sequence[str] | None, filters: Any) -> pa.Table:
    return pq.read_table(path, columns=None if columns is None else list(columns), filters=filters, partitioning=None)


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{path} is not a readable parquet table: {problem}") from problem


def _alike(there: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        return pa.types.is_list(there) and there.value_type == wanted.value_type
    return bool(there == wanted)


def _checked_row(number: int, row: Mapping[str, Any], schema: pa.Schema) -> Mapping[str, Any]:
    if set(row) != set(schema.names):
        raise DataError(f"row {number} has the columns {sorted(row)}, expected {sorted(schema.names)}")
    missing = [field.name for field in schema if not field.nullable and row[field.name] is None]
    if missing:
        raise DataError(f"row {number} has no value for {', '.join(missing)}")
    return row
