"""The global concurrency limit ``gpu`` on the Prefect server: made once, left alone when somebody has changed it."""

from __future__ import annotations

from collections.abc import Callable

from deployments import api
from deployments.background import StackError

GPU = "gpu"


def install(api_url: str, say: Callable[[str], None]) -> int:
    """See that the limit is there; returns its slots (1 where it was made now). StackError where the server refuses."""
    body = {"name": GPU, "limit": 1, "active": True, "slot_decay_per_second": 0.0}
    with api.client(api_url) as client:
        made = client.post("/v2/concurrency_limits/", json=body)
        there = client.get(f"/v2/concurrency_limits/{GPU}")
    if there.is_error:
        raise StackError(f"the Prefect server refused the limit {GPU}: {made.status_code} {made.text[:500]}")
    slots = int(there.json()["limit"])
    if slots == 1:
        say(f"limit {GPU!r}: one stage at a time runs a model (more: prefect gcl update {GPU} --limit N)")
    else:
        say(f"limit {GPU!r}: up to {slots} stages at a time run a model")
    return slots
