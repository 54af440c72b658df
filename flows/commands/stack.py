"""``mirage up``, ``down``, ``deploy``, ``status``, ``s3-block``: the local Prefect server and worker."""

from __future__ import annotations

import os

from deployments import local_stack, machine
from flows.commands.printing import print_line
from flows.commands.session import api_url, checkout_stack
from mirage_core.store.backends.s3 import SCHEMES
from tasks.paths import store_url, variable


def up(port: int | None) -> None:
    """Start the server and the worker where they do not run yet."""
    local_stack.up(checkout_stack(), port=port, log=print_line)


def down() -> None:
    """Stop the worker and the server where they run."""
    local_stack.down(checkout_stack(), print_line)


def deploy(store: str | None) -> None:
    """Register every deployment."""
    local_stack.deploy(checkout_stack(), api_url(), store=store_url(store), log=print_line)
    studies = ", ".join((*local_stack.STUDY_DEPLOYMENTS, "diagnosis"))
    print_line(
        f"deployed: mirage/full-pipeline, mirage-evaluation/nightly, mirage-serve/canary, "
        f"mirage-study/{studies}, and mirage-stage/<stage> for every stage"
    )


def status() -> None:
    """Print what runs, where the store is, where its keys come from, and how fast the machine is."""
    for name, value in local_stack.status(checkout_stack()).items():
        print_line(f"{name:8} {value if value is not None else 'not running'}")
    print_line(f"{'store':8} {store_url()}")
    if store_url().partition("://")[0] in SCHEMES:
        block = variable("MIRAGE_S3_BLOCK")
        print_line(f"{'keys':8} {f'Prefect block mirage-s3-credentials/{block}' if block else 'the AWS variables'}")
    print_line(f"{'machine':8} {machine.describe(machine.gflops_per_core())}")


def save_s3_block(name: str) -> None:
    """Save the AWS variables of this shell as a block on the server, for the flows of deployments that name it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks import credentials

    with temporary_settings({PREFECT_API_URL: api_url()}):
        credentials.save(name, os.environ)
    print_line(f"saved the keys as the Prefect block mirage-s3-credentials/{name}")
    print_line(f"flows use it after: MIRAGE_S3_BLOCK={name} mirage deploy --store s3://bucket/prefix")
