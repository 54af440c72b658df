"""Build the teacher of the settings, and compute its identity: what changes the chains."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirage_core.config import TeacherRuntime, TeacherSettings
from mirage_core.errors import SettingsError
from mirage_core.llm_client.cached_client import AnswerSource, CachedClient, Log, RecordedAnswers
from mirage_core.llm_client.response_cache import Recording, ResponseCache, StoredResponseCache, recording_files
from mirage_core.llm_client.secrets import read_api_key
from mirage_core.store import Store
from mirage_core.store.digests import canonical_json, file_sha256
from mirage_core.teacher.endpoint import EndpointTeacher
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.prompt_templates import templates_identity
from mirage_core.teacher.protocol import Teacher

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def make_teacher(
    settings: TeacherSettings, runtime: TeacherRuntime | None = None, store: Store | None = None
) -> Teacher:
    """Build the teacher of ``settings.kind``; an endpoint's answers are cached in ``store``, its key is read now.

    Raises SettingsError when the teacher needs something that is missing.
    """
    if settings.kind == "oracle":
        return OracleTeacher()
    runtime = runtime or TeacherRuntime()
    return EndpointTeacher(settings, runtime, source_factory(settings, runtime, store))


def source_factory(
    settings: TeacherSettings, runtime: TeacherRuntime, store: Store | None
) -> Callable[[Log], AnswerSource]:
    """Return a function that opens a source of answers: an endpoint or a recording; reads the key now.

    Raises SettingsError when something is missing.
    """
    if settings.kind == "replay":
        recording, description = _recording(settings, store)
        return lambda log: RecordedAnswers(recording, description)  # noqa: ARG005 (nothing to log)
    key, cache = read_api_key(runtime), StoredResponseCache(_required(store), str(settings.model))

    def source(log: Log) -> AnswerSource:
        url = urlsplit(str(runtime.base_url))
        if key is not None and url.scheme == "http" and url.hostname not in _LOOPBACK:
            log(f"the key is sent to {runtime.base_url} unencrypted: use https unless you trust every machine between")
        return CachedClient(runtime, key, cache, log)

    return source


def teacher_identity(settings: TeacherSettings) -> dict[str, Any]:
    """Return what changes the chains; not the address of an endpoint, its rate limit, or locations of files."""
    if settings.kind == "oracle":
        return settings.model_dump(mode="json", include={"kind", "variant"})
    identity = settings.model_dump(mode="json", exclude={"template", "recording"})
    identity["templates"] = templates_identity(settings.template, settings.variant)
    if settings.recording is not None:
        identity["recording"] = recording_sha256(Path(settings.recording).expanduser())
    return identity


def recording_sha256(path: Path) -> str:
    """Return the digest of a recording's content, independent of file names."""
    return hashlib.sha256(canonical_json(sorted(file_sha256(file) for file in recording_files(path)))).hexdigest()


def _recording(settings: TeacherSettings, store: Store | None) -> tuple[ResponseCache, str]:
    """Return the recording of the settings, or the cached answers of the model, and a description of it."""
    if settings.recording is not None:
        path = Path(settings.recording).expanduser()
        return Recording(path), f"the recordings in {path}"
    store = _required(store)
    return StoredResponseCache(store, str(settings.model)), f"the answers of {settings.model} cached in {store.url}"


def _required(store: Store | None) -> Store:
    if store is None:
        raise SettingsError("this teacher needs a store for its answers: pass make_teacher one")
    return store
