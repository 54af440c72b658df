"""When Prefect may skip a stage: the cache key, and whether the record kept under it can be believed.

The key is ``mirage/<stage>/v<version>/<fingerprint>``. A record under it is believed only when its storage hands it out
(plain JSON of known types), it holds an artifact's handle, and the store has that artifact with the same digest and the
same summary.
Any other record is dropped, so that the stage runs again and writes a good one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from prefect.context import TaskRunContext
from pydantic import ValidationError

from mirage_core.errors import InputError
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.types import Artifact
from tasks.paths import open_store
from tasks.results import HANDLE, RecordRefused, StoreResults

logger = logging.getLogger(__name__)


def cache_key(context: TaskRunContext, arguments: Mapping[str, Any]) -> str:
    """The cache key of a stage task's call; a record that cannot be believed is dropped on the way.

    InputError where the results would be kept elsewhere, unguarded: then Prefect runs the stage and reads nothing.
    """
    storage = context.result_store.result_storage
    if not isinstance(storage, StoreResults):
        raise InputError(f"results are kept in {type(storage).__name__}, expected StoreResults: use task_for")
    stage = get_stage(arguments["name"])
    identified = stage_fingerprint(stage, arguments["settings"], arguments["inputs"], arguments["params"])
    key = f"mirage/{stage.name}/v{stage.version}/{identified}"
    drop_unless_believed(storage, key, open_store(arguments["store"]).find(stage.kind, identified))
    return key


def drop_unless_believed(storage: StoreResults, key: str, artifact: Artifact | None) -> None:
    """Drop the record under ``key`` unless it is plain JSON and names ``artifact``, which is in the store."""
    try:
        fault = record_fault(storage.read_path(key), artifact)
    except ValueError:  # there is none
        return
    except RecordRefused as error:
        fault = str(error)
    if fault:
        logger.warning("the cached result %s is dropped and the stage runs again: %s", key, fault)
        storage.drop(key)


def record_fault(content: bytes, artifact: Artifact | None) -> str | None:
    """What is wrong with a record that its storage handed out, None when it can be believed."""
    try:
        kept = json.loads(json.loads(content)["result"])
        if not isinstance(kept, dict) or kept.get("__class__") != HANDLE:
            return "it does not hold an artifact's handle"
        held = Artifact.model_validate(kept["data"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        return f"it is not a result record ({type(error).__name__})"
    if artifact is None:
        return f"{held.path} is no longer in the store"
    if (held.path, held.digest) != (artifact.path, artifact.digest):
        return f"it names {held.path} with the digest {held.digest[:12]}, the store holds {artifact.digest[:12]}"
    if held != artifact:  # scores are read from summaries: a damaged record must not tell other ones
        return f"what it tells of {held.path} is not what its manifest tells"
    return None
