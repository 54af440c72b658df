"""Cache of paid answers: one file an answer, written at once, under the digest of its request; and recordings.

Files in the store: ``answers/<model>/<digest>.json``. After a crash, or on another machine, no answer is paid for
twice. Recordings (a JSONL file, or a folder of such files) have the same format.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.errors import DataError, EndpointError, InputError
from mirage_core.json_values import read_json
from mirage_core.llm_client.served_model import ServedTrajectory
from mirage_core.store import Store
from mirage_core.store.digests import OWN_SHA256, canonical_json

logger = logging.getLogger(__name__)
ANSWERS = "answers"
_DIGEST = "^[0-9a-f]{64}$"


class Answer(BaseModel):
    """The answer of a model to one request, and its tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: int = Field(1, ge=1, le=1)
    request: str = Field(pattern=_DIGEST, description="The digest of the request.")
    problem: str
    template: str
    attempt: int = Field(gt=0)
    model: str = Field(description="The model that was asked for.")
    served: str = Field(description="The model that the endpoint says answered.")
    text: str
    finish: str = Field(description="Why the text ends: stop, length, content_filter, refusal, ...")
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)
    trajectory: ServedTrajectory | None = Field(None, description="Of a model of this project, where asked for.")

    def to_line(self) -> bytes:
        """Return one line of JSON with its own sha256, to detect damage."""
        content = self.model_dump(mode="json", exclude=None if self.trajectory else {"trajectory"})
        return canonical_json({**content, OWN_SHA256: _own_sha256(content)}) + b"\n"


class ResponseCache(Protocol):
    """Storage of answers by the digest of their request."""

    def find(self, digest: str) -> Answer | None:
        """Return the answer to a request; None where there is none."""

    def save(self, answer: Answer) -> Answer:
        """Save an answer durably; returns the one that was saved first."""


class StoredResponseCache:
    """The cached answers of one model in the store; raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: Store, model: str) -> None:
        self._backend = store.backend
        self._folder = f"{ANSWERS}/{_folder_of(model)}"
        self._digests = {name.removesuffix(".json") for name in self._backend.sizes(self._folder)}

    def find(self, digest: str) -> Answer | None:
        """Return the cached answer; a damaged file counts as none, with a warning."""
        if digest not in self._digests:
            return None
        key = self._key(digest)
        try:
            answer = _parse(self._backend.read(key))
        except FileNotFoundError:
            return None
        if answer is None or answer.request != digest:
            logger.warning("%s in %s is damaged: the request is sent again", key, self._backend.url)
            return None
        return answer

    def save(self, answer: Answer) -> Answer:
        """Save an answer; if another machine saved one in the meantime, that one is returned."""
        key = self._key(answer.request)
        if not self._backend.create(key, answer.to_line()):
            self._digests.add(answer.request)
            first = self.find(answer.request)
            if first is not None:
                return first
            self._backend.write(key, answer.to_line())
        _fsync(self._backend.local(key))
        self._digests.add(answer.request)
        return answer

    def _key(self, digest: str) -> str:
        return f"{self._folder}/{digest}.json"


class Recording:
    """Recorded answers, read once; nothing is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers = {answer.request: answer for answer in _read_recording(path)}
        if not self._answers:
            raise DataError(
                f"the recording {path} holds no answers; expected JSON lines as under {ANSWERS}/ of a store"
            )

    def find(self, digest: str) -> Answer | None:
        """Return the recorded answer."""
        return self._answers.get(digest)

    def save(self, answer: Answer) -> Answer:
        """Raise EndpointError: a recording is read-only."""
        raise EndpointError(f"the recording {self._path} takes no answers (problem {answer.problem})")


def recording_files(path: Path) -> list[Path]:
    """Return the files of a recording in order; DataError when there are none."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".jsonl") and file.is_file())
        if files:
            return files
    elif path.is_file():
        return [path]
    raise DataError(f"there is no recording {path}: expected a JSONL file, or a folder of answers such as a store's")


def _read_recording(path: Path) -> Iterator[Answer]:
    for file in recording_files(path):
        lines = [(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
        for number, line in lines:
            answer = _parse(line)
            if answer is not None:
                yield answer
            elif number == lines[-1][0]:
                logger.warning("%s, line %d is not a whole answer (its writer was killed?): skipped", file, number)
            else:
                raise DataError(f"{file}, line {number} is not an answer: use the recording as it was written")


def _parse(line: bytes) -> Answer | None:
    """Parse a line; None if it is damaged. A line without its own sha256 was written by an earlier version."""
    try:
        content = read_json(line)
        if not isinstance(content, dict):
            return None
        own = content.pop(OWN_SHA256, None)
        return Answer.model_validate(content) if own in (None, _own_sha256(content)) else None
    except (ValueError, InputError):  # pydantic's ValidationError is a ValueError
        return None


def _own_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _folder_of(model: str) -> str:
    """Return the model's name as a valid folder name of a store."""
    return re.sub(r"[^A-Za-z0-9._+=@-]+", "-", model).strip(".-")[:120] or "model"


def _fsync(path: Path | None) -> None:
    """Flush a local file and its folder entry to disk, to survive a crash of the machine."""
    if path is None:
        return
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
