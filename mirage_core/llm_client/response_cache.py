"""A teacher's paid answers: each kept at once, one file an answer, and found again by the digest of its request.

In the store they lie under ``answers/<model>/<digest>.json``: whatever ends a run, on whichever machine the next one
is, no answer is paid for twice. Recordings (a JSONL file, or a folder of such files) are read in the same form.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.errors import DataError, TeacherError
from mirage_core.store import Store
from mirage_core.store.digests import OWN, canonical_json

logger = logging.getLogger(__name__)
ANSWERS = "answers"
_DIGEST = "^[0-9a-f]{64}$"


class Answer(BaseModel):
    """What a model answered to one request, and what that cost."""

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

    def to_line(self) -> bytes:
        """One line of JSON, with a sha256 of its own: damage to a paid answer is noticed."""
        told = self.model_dump(mode="json")
        return canonical_json({**told, OWN: _own_sha256(told)}) + b"\n"


class Answers(Protocol):
    """Where answers are kept."""

    def find(self, digest: str) -> Answer | None:
        """The answer to a request, None where there is none."""

    def keep(self, answer: Answer) -> Answer:
        """Keep an answer so that it outlives this process; the one that was kept first is what counts."""


class StoredAnswers:
    """The answers of one model in the store; raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: Store, model: str) -> None:
        self._place = store.place
        self._folder = f"{ANSWERS}/{_folder_of(model)}"
        self._there = {name.removesuffix(".json") for name in self._place.sizes(self._folder)}

    def find(self, digest: str) -> Answer | None:
        """The kept answer; a damaged file counts as none, with a warning."""
        if digest not in self._there:
            return None
        key = self._key(digest)
        try:
            answer = _parsed(self._place.read(key))
        except FileNotFoundError:
            return None
        if answer is None or answer.request != digest:
            logger.warning("%s in %s is damaged: it is asked again", key, self._place.url)
            return None
        return answer

    def keep(self, answer: Answer) -> Answer:
        """Keep an answer; where another machine kept one meanwhile, that is returned."""
        key = self._key(answer.request)
        if not self._place.create(key, answer.to_line()):
            self._there.add(answer.request)
            first = self.find(answer.request)
            if first is not None:
                return first
            self._place.write(key, answer.to_line())
        _to_disk(self._place.local(key))
        self._there.add(answer.request)
        return answer

    def _key(self, digest: str) -> str:
        return f"{self._folder}/{digest}.json"


class Recording:
    """Recorded answers, read once; nothing is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers = {answer.request: answer for answer in _recorded(path)}
        if not self._answers:
            raise DataError(
                f"the recording {path} holds no answers; expected JSON lines as under {ANSWERS}/ of a store"
            )

    def find(self, digest: str) -> Answer | None:
        """The recorded answer."""
        return self._answers.get(digest)

    def keep(self, answer: Answer) -> Answer:
        """A recording is finished: what it does not hold cannot be answered."""
        raise TeacherError(f"the recording {self._path} takes no answers (problem {answer.problem})")


def recording_files(path: Path) -> list[Path]:
    """The files of a recording in order; DataError when there is nothing."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".jsonl") and file.is_file())
        if files:
            return files
    elif path.is_file():
        return [path]
    raise DataError(f"there is no recording {path}: expected a JSONL file, or a folder of answers such as a store's")


def _recorded(path: Path) -> Iterator[Answer]:
    for file in recording_files(path):
        lines = [(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
        for number, line in lines:
            answer = _parsed(line)
            if answer is not None:
                yield answer
            elif number == lines[-1][0]:
                logger.warning("%s, line %d is not a whole answer (its writer was killed?): left out", file, number)
            else:
                raise DataError(f"{file}, line {number} is not an answer: take the recording as it was written")


def _parsed(line: bytes) -> Answer | None:
    """The answer of a line; None for damage. A line without a sha256 of its own was written by an earlier version."""
    try:
        told = json.loads(line)
        if not isinstance(told, dict):
            return None
        own = told.pop(OWN, None)
        return Answer.model_validate(told) if own in (None, _own_sha256(told)) else None
    except ValueError:  # pydantic's ValidationError is one
        return None


def _own_sha256(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(told)).hexdigest()


def _folder_of(model: str) -> str:
    """The model's name as one that a store allows."""
    return re.sub(r"[^A-Za-z0-9._+=@-]+", "-", model).strip(".-")[:120] or "model"


def _to_disk(path: Path | None) -> None:
    """Make sure of a local file's bytes and name, also where the machine itself goes down."""
    if path is None:
        return
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
