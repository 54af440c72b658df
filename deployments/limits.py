"""Create the global concurrency limit ``gpu`` on a Prefect server; leave one that exists as it is."""

from __future__ import annotations

from collections.abc import Callable

from deployments import api
from deployments.background import StackError

GPU = "gpu"


def install(api_url: str, log: Callable[[str], None]) -> int:
    """Create the limit where it is missing; return its slots (1 when new). StackError where the server refuses."""
    body = {"name": GPU, "limit": 1, "active": True, "slot_decay_per_second": 0.0}
    with api.client(api_url) as client:
        created = client.post("/v2/concurrency_limits/", json=body)
        limit = client.get(f"/v2/concurrency_limits/{GPU}")
    if limit.is_error:
        raise StackError(f"the Prefect server refused the limit {GPU}: {created.status_code} {created.text[:500]}")
    slots = int(limit.json()["limit"])
    if slots == 1:
        log(f"limit {GPU!r}: one stage at a time runs a model (more: prefect gcl update {GPU} --limit N)")
    else:
        log(f"limit {GPU!r}: up to {slots} stages at a time run a model")
    return slots
