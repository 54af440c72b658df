"""A stack of this folder's own, since its servers and workers are killed, and a store that its tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirage_core.store import Store
from tests.crash.accident import Accident
from tests.servers.stack import LiveStack, running_stack


@pytest.fixture(scope="session")
def fragile_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """A real stack that may be killed; whoever kills a part of it starts it again."""
    home: Path = tmp_path_factory.mktemp("fragile-stack")
    with running_stack(home, str(home / "store")) as stack:
        yield stack


@pytest.fixture
def accident(fragile_stack: LiveStack) -> Iterator[Accident]:
    """A run on the shared store; tests choose a learning rate of their own for stage 2, so that it always trains."""
    store = Store.open(fragile_stack.store, cache=Path(fragile_stack.store).parent / "cache")
    happening = Accident(fragile_stack, store)
    yield happening
    fragile_stack.restart_server()
    if happening.flow_run and fragile_stack.state(happening.flow_run)["type"] in ("RUNNING", "PENDING", "SCHEDULED"):
        fragile_stack.cancel(happening.flow_run)
