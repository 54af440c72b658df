"""Where Prefect keeps the results of stages: below the store's root, as JSON, and nothing else is ever read there.

Prefect 3.8 deserialises a record with whatever the record itself names, pickle included, so whoever can write into a
result storage would run code in the flows. All reads of a result go through ``read_path`` of the storage block, and
this one hands out only what ``believable`` has taken apart and put together again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.filesystems import WritableFileSystem
from prefect.settings import get_current_settings
from pydantic import Field

from mirage_core.errors import MirageError
from mirage_core.store import Store
from mirage_core.store.backends.entries import RESULTS
from mirage_core.store.digests import dump_checked, load_checked
from mirage_core.store.manifest import safe_name
from mirage_core.types import Artifact
from tasks.paths import open_store

logger = logging.getLogger(__name__)

BLOCK = "store"
ATTEMPTS = 3
HANDLE = f"{Artifact.__module__}.{Artifact.__qualname__}"
# The exception of a failed stage is kept too. Nobody needs it made again from its record, but for these.
_OWN = "mirage_core.errors."
_JSON = {
    "type": "json",
    "jsonlib": "json",
    "object_encoder": "prefect.serializers.prefect_json_object_encoder",
    "object_decoder": "prefect.serializers.prefect_json_object_decoder",
    "dumps_kwargs": {},
    "loads_kwargs": {},
}


class RecordRefused(MirageError):
    """A result record is not plain JSON of known types: it is not read."""


class StoreResults(WritableFileSystem):
    """The results of Mirage's stages, in the folder `results` of the store. Made by `mirage deploy`, or a flow."""

    _block_type_name: ClassVar[str | None] = "Mirage Results"
    _block_type_slug: ClassVar[str | None] = "mirage-results"

    root: str = Field(default="", description="The store's root; empty: the one in MIRAGE_STORE, as for everything.")

    # Prefect's own storages have these both ways too, and are told which is meant by ``_sync``.

    def read_path(self, path: str, *, _sync: bool = True) -> bytes:  # type: ignore[override]
        """A record that can be read without harm; RecordRefused for any other, ValueError where there is none."""
        try:
            content = self._store().place.read(_key(path))
        except FileNotFoundError as error:
            raise ValueError(f"there is no result {path}") from error
        try:
            return believable(content)
        except RecordRefused as error:
            logger.warning("the result record %s is not read: %s", path, error)
            raise

    def write_path(  # type: ignore[override]
        self,
        path: str,
        content: bytes,
        *,
        _sync: bool = True,
    ) -> None:
        """Write a record, atomically, with a sha256 of its own: damage to any byte of it is noticed on reading."""
        self._store().place.write(_key(path), sealed(content))

    def drop(self, path: str) -> None:
        """Remove a record; nothing happens where there is none."""
        self._store().place.remove(_key(path))

    async def aread_path(self, path: str) -> bytes:
        """``read_path`` in a thread."""
        return await asyncio.to_thread(self.read_path, path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """``write_path`` in a thread."""
        await asyncio.to_thread(self.write_path, path, content)

    def _store(self) -> Store:
        return open_store(self.root or None)


def results_in(store: str) -> StoreResults:
    """The storage for the results of stages whose artifacts go to ``store``, known to the Prefect server."""
    return _saved(str(get_current_settings().api.url)).model_copy(update={"root": store})


def save_block() -> StoreResults:
    """The block as the server has it, saved there where it is not; however often, and by however many at once."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return StoreResults.load(BLOCK, _sync=True)  # type: ignore[call-arg, return-value, unused-ignore]
        except ValueError:  # what Prefect says of a block that is not there
            pass
        try:
            StoreResults().save(BLOCK, overwrite=True, _sync=True)  # type: ignore[call-arg, unused-ignore]
        except (ObjectAlreadyExists, PrefectHTTPStatusError):  # another flow saves it at the same time
            if attempt == ATTEMPTS:
                raise
    return StoreResults.load(BLOCK, _sync=True)  # type: ignore[call-arg, return-value, unused-ignore]


@cache
def _saved(api: str) -> StoreResults:  # noqa: ARG001 (a process may know several servers: tests do)
    return save_block()


def sealed(content: bytes) -> bytes:
    """A record as it is kept; what is no JSON object is kept as it is, and refused when it is read."""
    try:
        record = json.loads(content)
        return dump_checked(record) if isinstance(record, dict) else content
    except ValueError:
        return content


def believable(content: bytes) -> bytes:
    """The record written anew from the parts that were looked at; RecordRefused says what is wrong with it.

    Written anew, since Prefect reads it with another parser, which might see a key twice or in another place.
    """
    record = _parsed(content)
    if set(record) != {"metadata", "result"} or not isinstance(record["metadata"], dict):
        raise RecordRefused(f"it is not a result record: it holds {_brief(sorted(record))}")
    metadata, result = record["metadata"], record["result"]
    if metadata.get("serializer") != _JSON:
        raise RecordRefused(f"it names the serializer {_brief(metadata.get('serializer'))}, expected plain json")
    if not isinstance(result, str):
        raise RecordRefused(f"it holds a {type(result).__name__}, expected JSON in a text")
    try:
        kept = json.loads(result, object_hook=_known)
    except ValueError as error:
        raise RecordRefused(f"its result is not JSON: {error}") from error
    return json.dumps({"metadata": metadata, "result": json.dumps(kept)}).encode()


def _parsed(content: bytes) -> Mapping[str, Any]:
    try:
        return load_checked(content)
    except ValueError as error:  # UnicodeDecodeError is one
        raise RecordRefused(f"it is not a result record as it was written: {error}") from error


def _known(value: dict[str, Any]) -> dict[str, Any]:
    """The object as it is, unless reading it would make something else than a handle or an error of ours."""
    made = value.get("__class__")
    if made is not None and made != HANDLE:
        raise RecordRefused(f"it holds a {_brief(made)}, expected an artifact's handle")
    raised = value.get("__exc_type__")
    if raised is not None and not str(raised).startswith(_OWN):
        raise RecordRefused(f"it holds the exception {_brief(raised)}, which is none of this project's")
    return value


def _key(path: str) -> str:
    return safe_name(f"{RESULTS}/{path}")


def _brief(value: Any) -> str:
    return str(value)[:80]
