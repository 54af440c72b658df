"""``mirage up``, ``down``, ``deploy``, ``status``: the local Prefect server and worker."""

from __future__ import annotations

import os

from deployments import local_stack
from deployments.background import StackError
from flows.commands.printing import console
from tasks.places import home, repository, store_url


def stack() -> local_stack.LocalStack:
    """The stack of this checkout."""
    return local_stack.LocalStack(repository=repository(), home=home())


def api_url() -> str:
    """The Prefect API: PREFECT_API_URL where it is set, else the local stack's; StackError where none runs."""
    url = os.environ.get("PREFECT_API_URL") or local_stack.api_url(stack())
    if url is None:
        raise StackError(
            "no Prefect server runs: start one with `make up` (or `mirage up`), name one in PREFECT_API_URL, "
            "or do without: mirage run --direct"
        )
    return url


def up(port: int | None) -> None:
    """Start what does not run yet."""
    local_stack.up(stack(), port=port, say=say)


def down() -> None:
    """Stop what runs."""
    local_stack.down(stack(), say)


def deploy(store: str | None) -> None:
    """Register every deployment."""
    url = api_url()
    local_stack.deploy(stack(), url, store=store_url(store), say=say)
    say("deployed: mirage/full-pipeline, mirage-evaluation/nightly and one mirage-stage/<stage> a stage")


def status() -> None:
    """Print what runs."""
    for name, value in local_stack.status(stack()).items():
        say(f"{name:8} {value if value is not None else 'not running'}")
    say(f"{'store':8} {store_url()}")


def say(line: str) -> None:
    """One line for people."""
    console.print(line, markup=False)
