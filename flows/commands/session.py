"""What a command shares with the processes it starts: the Prefect server, the store, keys, and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from deployments import local_stack
from deployments.background import StackError
from mirage_core.config import Settings
from mirage_core.llm_client.secrets import use_key_reader
from tasks.paths import home, repository, store_url, variable
from tasks.secrets import read_key


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exit with status 143 on SIGTERM inside the block, after training has saved its step and the record is written."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def flow_environment(store: str | None) -> dict[str, str]:
    """Return the environment of the flow's process, which the UI shows: the store, and the block with its keys."""
    block = variable("MIRAGE_S3_BLOCK")
    return {"MIRAGE_STORE": store_url(store), **({"MIRAGE_S3_BLOCK": block} if block else {})}


def provide_teacher_key(settings: Settings) -> AbstractContextManager[None]:
    """Let the block read the teacher's key; one in a Prefect block needs the running server."""
    if settings.teacher.kind == "endpoint" and settings.runtime.teacher.api_key_block is not None:
        connect_to_prefect()
    return use_key_reader(read_key)


def checkout_stack() -> local_stack.LocalStack:
    """Return the local stack of this checkout."""
    return local_stack.LocalStack(repository=repository(), home=home())


def api_url() -> str:
    """Return PREFECT_API_URL where it is set, else the local stack's API; StackError where no server runs."""
    url = os.environ.get("PREFECT_API_URL") or local_stack.api_url(checkout_stack())
    if url is None:
        raise StackError(
            "no Prefect server runs: start one with `make up` (or `mirage up`), name one in PREFECT_API_URL, "
            "or run without one: mirage run --direct"
        )
    return url


def connect_to_prefect() -> None:
    """Point Prefect's client at the running server. Call this before Prefect is imported."""
    os.environ["PREFECT_API_URL"] = api_url()
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))


def connect_to_local_server() -> None:
    """Point Prefect's client at the local server where one runs: the keys of an S3 store may be in a block."""
    url = None if "PREFECT_API_URL" in os.environ else local_stack.api_url(checkout_stack())
    if url:
        os.environ["PREFECT_API_URL"] = url


def absolute_recipe(recipe: str) -> str:
    """Return a recipe's name unchanged, and a file's path made absolute: the worker has another working folder."""
    return os.path.abspath(recipe) if os.path.isfile(recipe) else recipe
