"""``mirage up``, ``down``, ``deploy``, ``status``: the local Prefect server and worker."""

from __future__ import annotations

import os

from deployments import local_stack
from deployments.background import StackError
from flows.commands.printing import console
from mirage_core.store.backends.s3 import SCHEMES
from tasks.paths import home, repository, results_url, store_url, variable


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
    from flows.apps.study_names import DEPLOYED

    url = api_url()
    local_stack.deploy(stack(), url, store=store_url(store), say=say)
    save_results_block(url)
    studies = ", ".join((*DEPLOYED, "diagnosis"))
    say(
        f"deployed: mirage/full-pipeline, mirage-evaluation/nightly, mirage-study/{studies}, "
        "and one mirage-stage/<stage> a stage"
    )


def status() -> None:
    """Print what runs."""
    for name, value in local_stack.status(stack()).items():
        say(f"{name:8} {value if value is not None else 'not running'}")
    say(f"{'store':8} {store_url()}")
    say(f"{'results':8} {results_url()} (Prefect block mirage-results/store)")
    if store_url().partition("://")[0] in SCHEMES:
        block = variable("MIRAGE_S3_BLOCK")
        say(f"{'keys':8} {f'Prefect block mirage-s3-credentials/{block}' if block else 'the AWS variables'}")


def save_results_block(url: str) -> None:
    """Save the block that keeps results in the store, where the server does not have it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.results import save_block

    with temporary_settings({PREFECT_API_URL: url}):
        save_block()


def save_s3_block(name: str) -> None:
    """Save the AWS variables of this shell as a block on the server, for the flows of deployments that name it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks import credentials

    with temporary_settings({PREFECT_API_URL: api_url()}):
        credentials.save(name, os.environ)
    say(f"saved the keys as the Prefect block mirage-s3-credentials/{name}")
    say(f"flows use it after: MIRAGE_S3_BLOCK={name} mirage deploy --store s3://bucket/prefix")


def reach_keys() -> None:
    """Tell Prefect's client where the local server is, where a command's store may need the keys of a block."""
    url = None if "PREFECT_API_URL" in os.environ else local_stack.api_url(stack())
    if url:
        os.environ["PREFECT_API_URL"] = url


def say(line: str) -> None:
    """One line for people."""
    console.print(line, markup=False)
