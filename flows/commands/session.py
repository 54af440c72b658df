""""""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from flows.commands.printing import console
from mirage_core.config import Settings
from mirage_core.llm_client.secrets import keys_from
from mirage_core.types import ProgressEvent
from tasks.log_lines import line_of
from tasks.paths import home, store_url, variable
from tasks.secrets import read_key


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block: training finishes its step and saves, the record is written; exit status 143."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def environment(store: str | None) -> dict[str, str]:
    """What the flow's process is told, and the UI shows: where the store is, and which block has its keys."""
    block = variable("MIRAGE_S3_BLOCK")
    told = {"MIRAGE_STORE": store_url(store), "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}
    return {**told, **({"MIRAGE_S3_BLOCK": block} if block else {})}


def keys_of(settings: Settings) -> AbstractContextManager[None]:
    """Let the work inside read the teacher's key; one that lies in a block needs the running server."""
    if settings.teacher.kind == "endpoint" and settings.runtime.teacher.api_key_block is not None:
        connect_to_prefect()
    return keys_from(read_key)


def connect_to_prefect() -> None:
    """Point Prefect's client at the running server; before Prefect is imported."""
    from flows.commands.stack import api_url

    os.environ["PREFECT_API_URL"] = api_url()
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))


def absolute(recipe: str) -> str:
    """A recipe's name as it is; a file's path made absolute, since the worker has a working folder of its own."""
    return os.path.abspath(recipe) if os.path.isfile(recipe) else recipe


class DirectProgress:
    """Prints a stage's progress events: steps a few seconds apart, everything else at once."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._spoken = float("-inf")

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event."""
        now = time.monotonic()
        if event.step is None or event.step == event.total or now - self._spoken >= self._every_s:
            self._spoken = now
            console.print(line_of(event.stage, event), markup=False)
