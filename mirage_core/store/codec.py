"""Records as table rows: the columns of a dataclass, and how its values are written to and read from them."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from mirage_core.errors import DataError
from mirage_core.store.digests import canonical_json

Record = TypeVar("Record")
Row = dict[str, Any]
_SCALARS = {str: pa.string(), bytes: pa.binary(), int: pa.int32(), bool: pa.bool_()}


class RecordCodec(Generic[Record]):
    """Converts records of one type to rows and back.

    ``record`` is a dataclass or a tuple of dataclasses. Fields become columns in their order: ``str``, ``bytes``,
    ``int`` (32 bits), ``bool``, tuples of these (lists), mappings (JSON text), and ``X | None`` (nullable). The fields
    of a nested dataclass stand beside the others, those of a tuple of dataclasses as one list column a field.
    ``columns`` renames: ``{"Type.field": "column"}``. Fields that share a column must be equal in a row.
    ``optional`` columns hold tuples; a table may lack them, and every tuple is then empty.
    """

    def __init__(self, record: Any, columns: Mapping[str, str] | None = None, optional: Collection[str] = ()) -> None:
        self._node = _node(record, "", columns or {})
        by_name = {field.name: field for field in self._node.columns}
        self._optional = [name for name in by_name if name in optional]
        self.full_schema = pa.schema(list(by_name.values()))
        self.schema = pa.schema([field for name, field in by_name.items() if name not in self._optional])
        self._key = self.schema.names[0]

    def schema_of(self, stored: Collection[str]) -> pa.Schema:
        """Return the schema of a table that has the ``stored`` columns, optional ones where it has them."""
        return pa.schema([f for f in self.full_schema if f.name not in self._optional or f.name in stored])

    def encode(self, record: Record, *, full: bool = False) -> Row:
        """Return the row of a record, with the optional columns if it is to be ``full``.

        DataError where fields that share a column differ, and for a value that has no column in a row not full.
        """
        row: Row = {}
        self._node.encode(record, row)
        if not full:
            for name in self._optional:
                if row.pop(name):
                    raise DataError(f"the row of {row[self._key]} has {name}, which this table has no column for")
        return row

    def decode(self, row: Row, file: Path) -> Record:
        """Return the record of a row; DataError names ``file``, the row and the column that cannot be read."""
        try:
            record: Record = self._node.decode({**dict.fromkeys(self._optional, ()), **row})
        except ValueError as error:
            raise DataError(f"{file}: the row of {row[self._key]} cannot be read: {error}") from error
        return record


class _Node(Protocol):
    """A part of a record: its columns, and how they are filled and read."""

    @property
    def columns(self) -> tuple[pa.Field, ...]: ...

    def encode(self, value: Any, row: Row) -> None: ...

    def decode(self, row: Row) -> Any: ...


class _Column:
    """One value in one column; ``dump`` and ``load`` convert it where it is not stored as it is."""

    def __init__(self, field: pa.Field, dump: Callable[[Any], Any] | None, load: Callable[[Any], Any] | None) -> None:
        self.columns = (field,)
        self._name, self._dump, self._load = field.name, dump, load

    def encode(self, value: Any, row: Row) -> None:
        value = value if self._dump is None else self._dump(value)
        stored = row.setdefault(self._name, value)
        if stored is not value and stored != value:
            raise DataError(f"the records of one row differ in {self._name}: {stored!r:.80} and {value!r:.80}")

    def decode(self, row: Row) -> Any:
        value = row[self._name]
        if self._load is None:
            return value
        try:
            return self._load(value)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from error


@dataclass(frozen=True)
class _Parts:
    """Several values side by side: the fields of a dataclass, or the elements of a tuple."""

    get: tuple[Callable[[Any], Any], ...]
    nodes: tuple[_Node, ...]
    build: Callable[[list[Any]], Any]

    @cached_property
    def columns(self) -> tuple[pa.Field, ...]:
        return tuple(column for node in self.nodes for column in node.columns)

    def encode(self, value: Any, row: Row) -> None:
        for get, node in zip(self.get, self.nodes, strict=True):
            node.encode(get(value), row)

    def decode(self, row: Row) -> Any:
        return self.build([node.decode(row) for node in self.nodes])


@dataclass(frozen=True)
class _Repeated:
    """A tuple of dataclasses, as lists of equal length: one list column a field."""

    item: _Parts

    @cached_property
    def columns(self) -> tuple[pa.Field, ...]:
        return tuple(pa.field(c.name, pa.list_(c.type), nullable=False) for c in self.item.columns)

    def encode(self, value: Any, row: Row) -> None:
        for get, column in zip(self.item.get, self.columns, strict=True):
            row[column.name] = [get(item) for item in value]

    def decode(self, row: Row) -> Any:
        names = [column.name for column in self.item.columns]
        values = zip(*(row[name] for name in names), strict=True)
        return tuple(self.item.decode(dict(zip(names, item, strict=True))) for item in values)


def _node(kind: Any, name: str, renames: Mapping[str, str]) -> _Node:
    """The node of a type; ``name`` is the column's, for types that need only one."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _dataclass_node(kind, renames)
    if origin is tuple and arguments[-1] is not Ellipsis:
        nodes = tuple(_node(argument, name, renames) for argument in arguments)
        return _Parts(tuple(map(itemgetter, range(len(nodes)))), nodes, tuple)
    if origin is tuple and is_dataclass(arguments[0]):
        return _Repeated(_dataclass_node(arguments[0], renames))
    nullable = origin in (Union, types.UnionType)
    stored, dump, load = _storage(next(a for a in arguments if a is not type(None)) if nullable else kind)
    return _Column(pa.field(name, stored, nullable=nullable), dump, load)


def _dataclass_node(kind: Any, renames: Mapping[str, str]) -> _Parts:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    nodes = tuple(_node(hints[n], renames.get(f"{kind.__name__}.{n}", n), renames) for n in names)
    return _Parts(tuple(map(attrgetter, names)), nodes, lambda values: kind(**dict(zip(names, values, strict=True))))


def _storage(kind: Any) -> tuple[pa.DataType, Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """The column type of a field's type, and how its values are converted to it and back (None: stored as they are)."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return pa.string(), None, None
    if origin is tuple:
        return pa.list_(_SCALARS[arguments[0]]), list, tuple
    if origin is Mapping:
        return pa.string(), lambda value: canonical_json(dict(value)).decode(), _json_object
    return _SCALARS[kind], None, None


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"got JSON of type {type(value).__name__}, expected an object")
    return value
