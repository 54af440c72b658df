"""The teacher that the settings name, and what of it changes the chains."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirage_core.config import TeacherRuntime, TeacherSettings
from mirage_core.errors import SettingsError
from mirage_core.llm_client.cached_client import Asking, Replay, Say, Source
from mirage_core.llm_client.prompt_templates import templates_identity
from mirage_core.llm_client.response_cache import Answers, Recording, StoredAnswers, recording_files
from mirage_core.llm_client.secrets import key_of
from mirage_core.store import Store
from mirage_core.store.digests import canonical_json, file_sha256
from mirage_core.teacher.endpoint import EndpointTeacher
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import Teacher

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def make_teacher(
    settings: TeacherSettings, runtime: TeacherRuntime | None = None, store: Store | None = None
) -> Teacher:
    """Build the teacher of ``settings.kind``; an endpoint's answers are kept in ``store``, its key is read now.

    Raises SettingsError when something that this teacher needs is missing.
    """
    if settings.kind == "oracle":
        return OracleTeacher()
    reached = runtime or TeacherRuntime()
    return EndpointTeacher(settings, reached, source_of(settings, reached, store))


def source_of(settings: TeacherSettings, runtime: TeacherRuntime, store: Store | None) -> Callable[[Say], Source]:
    """Where the answers of an endpoint or a recording come from, opened anew with somebody to tell; reads the key now.

    Raises SettingsError when something is missing.
    """
    if settings.kind == "replay":
        recorded, where = _recorded(settings, store)
        return lambda say: Replay(recorded, where)  # noqa: ARG005 (a recording has nothing to tell)
    key, kept = key_of(runtime), StoredAnswers(_needed(store), str(settings.model))

    def source(say: Say) -> Source:
        url = urlsplit(str(runtime.base_url))
        if key is not None and url.scheme == "http" and url.hostname not in _THIS_MACHINE:
            say(f"the key goes to {runtime.base_url} unencrypted: use https unless you trust every machine between")
        return Asking(runtime, key, kept, say)

    return source


def teacher_identity(settings: TeacherSettings) -> dict[str, Any]:
    """What changes the chains; never where an endpoint is, how fast it is asked, or where files lie."""
    if settings.kind == "oracle":
        return settings.model_dump(mode="json", include={"kind", "variant"})
    told = settings.model_dump(mode="json", exclude={"template", "recording"})
    told["templates"] = templates_identity(settings.template, settings.variant)
    if settings.recording is not None:
        told["recording"] = recording_sha256(Path(settings.recording).expanduser())
    return told


def recording_sha256(path: Path) -> str:
    """A recording by its content, however its files are named."""
    return hashlib.sha256(canonical_json(sorted(file_sha256(file) for file in recording_files(path)))).hexdigest()


def _recorded(settings: TeacherSettings, store: Store | None) -> tuple[Answers, str]:
    if settings.recording is not None:
        path = Path(settings.recording).expanduser()
        return Recording(path), f"the recordings in {path}"
    kept = _needed(store)
    return StoredAnswers(kept, str(settings.model)), f"the answers of {settings.model} kept in {kept.url}"


def _needed(store: Store | None) -> Store:
    if store is None:
        raise SettingsError("this teacher needs a store for its answers: give make_teacher one")
    return store
