"""When Prefect may skip a stage: the cache key, and whether the record kept under it can be believed.

The key is ``mirage/<stage>/v<version>/<fingerprint>``. A record under it is believed only when it is plain JSON,
holds an artifact handle, and that artifact is in the store with the same digest. Any other record is dropped
before Prefect reads it: Prefect 3.8 obeys the serializer a record names, pickle included.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from typing import Any

from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.results import get_result_store
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import ValidationError

from mirage_core.stages.registry import get_stage
from mirage_core.stages.stage import stage_fingerprint
from mirage_core.types import Artifact
from tasks.places import open_store

logger = logging.getLogger(__name__)

_HANDLE = f"{Artifact.__module__}.{Artifact.__qualname__}"
_JSON = {
    "type": "json",
    "jsonlib": "json",
    "object_encoder": "prefect.serializers.prefect_json_object_encoder",
    "object_decoder": "prefect.serializers.prefect_json_object_decoder",
    "dumps_kwargs": {},
    "loads_kwargs": {},
}


def cache_key(context: TaskRunContext, arguments: Mapping[str, Any]) -> str:
    """The cache key of a stage task's call; a record that cannot be believed is dropped on the way."""
    stage = get_stage(arguments["name"])
    identified = stage_fingerprint(stage, arguments["settings"], arguments["inputs"], arguments["params"])
    key = f"mirage/{stage.name}/v{stage.version}/{identified}"
    artifact = open_store(arguments["store"]).find(stage.kind, identified)
    storage = context.result_store.result_storage or get_result_store().result_storage
    if storage is not None:
        drop_unless_believed(storage, key, artifact)
    return key


def drop_unless_believed(storage: WritableFileSystem, key: str, artifact: Artifact | None) -> None:
    """Overwrite the record under ``key`` unless it is JSON and names ``artifact``, which is in the store."""
    content = _read(storage, key)
    if content is None or content == b"":
        return
    fault = record_fault(content, artifact)
    if fault:
        logger.warning("the cached result %s is dropped and the stage runs again: %s", key, fault)
        # Storages have no common way to delete; Prefect takes an empty record for none.
        _now(storage.write_path(key, content=b""))


def record_fault(content: bytes, artifact: Artifact | None) -> str | None:
    """What is wrong with a result record, None when it can be believed."""
    try:
        record = json.loads(content)
        serializer, result = record["metadata"]["serializer"], record["result"]
        if serializer != _JSON:
            return f"it names the serializer {_brief(serializer)}, expected plain json"
        kept = json.loads(result) if isinstance(result, str) else result
        if not isinstance(kept, dict) or kept.get("__class__") != _HANDLE:
            return "it does not hold an artifact's handle"
        held = Artifact.model_validate(kept["data"])
    except (ValueError, KeyError, TypeError, ValidationError) as problem:
        return f"it is not a result record ({type(problem).__name__})"
    if artifact is None:
        return f"{held.path} is no longer in the store"
    if (held.path, held.digest) != (artifact.path, artifact.digest):
        return f"it names {held.path} with the digest {held.digest[:12]}, the store holds {artifact.digest[:12]}"
    return None


def _read(storage: WritableFileSystem, key: str) -> bytes | None:
    try:
        content = _now(storage.read_path(key))
    except (ValueError, FileNotFoundError):  # what Prefect's storages say of a file that is not there
        return None
    return content if isinstance(content, bytes) else None


def _now(called: Any) -> Any:
    """What a storage's method gave, awaited where the storage has only asynchronous methods."""
    return run_coro_as_sync(called) if inspect.iscoroutine(called) else called


def _brief(value: Any) -> str:
    return str(value)[:80]
