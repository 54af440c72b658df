"""One real run that an accident will happen to: where it is, what it has finished, and whether all ends well."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import psutil

from mirage_core.pipeline.run_record import RunRecord, load_record
from mirage_core.store import Store
from tasks.gpu import LEASE_S
from tests.servers.stack import LiveStack

# Long enough in stage 2 to be hit in its middle, between two checkpoints.
OVERRIDES = (
    "relaxation.steps=240",
    "runtime.checkpoint_every=40",
    "evaluation.methods=[stage-2]",
    "problems.vsp_reasoning.test_per_level=2",
    "problems.vsp_planning.test_per_level=2",
)
RESUMED = re.compile(r"going on after step (\d+)")
PATIENCE_S = 400.0
SETTLED_S = 10.0
Stamps = dict[str, str]


@dataclass
class Accident:
    """A run of mirage/full-pipeline on ``store``; its processes are known by the TMPDIR that they are given."""

    live: LiveStack
    store: Store
    environment: Mapping[str, str] = field(default_factory=dict)
    flow_run: str = ""
    finished: Stamps = field(default_factory=dict)
    temporary: str = ""

    def __post_init__(self) -> None:
        """A TMPDIR in the stack's home, which pytest removes."""
        folder = self.live.stack.home / f"accident-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        self.temporary = str(folder)

    def start(self, *overrides: str, recipe: str = "micro") -> None:
        """Start the run."""
        parameters = {"recipe": recipe, "overrides": [*OVERRIDES, *overrides]}
        env = {**self.environment, "MIRAGE_STORE": self.store.url, "TMPDIR": self.temporary}
        self.flow_run = self.live.run("mirage/full-pipeline", parameters, env)

    def reach_a_checkpoint(self) -> None:
        """Wait until stage 2 trains and has a checkpoint in the store; notes what is finished by then."""
        self.live.until(
            lambda: bool(self.ranks("relaxation")) and self.checkpoints() > 0, "a checkpoint of stage 2", PATIENCE_S
        )
        self.finished = self.stamps()
        if not self.finished:
            raise AssertionError("nothing was finished before stage 2")

    def checkpoints(self) -> int:
        """How many checkpoints there are in the store."""
        return len([name for name in self.store.backend.sizes("checkpoints") if name.endswith("manifest.json")])

    def stamps(self) -> Stamps:
        """When each artifact was made, by its path: an execution log that nobody can retouch."""
        return {artifact.path: self.store.manifest(artifact).about["created"] for artifact in self.store.list()}

    def ranks(self, stage: str = "") -> list[psutil.Process]:
        """The training and evaluation processes of the run (of one stage)."""
        return list(processes("mirage_core.pipeline.worker", f"{self.temporary}/mirage-{stage}"))

    def flow_process(self) -> psutil.Process:
        """The process that runs the flow: the parent of the training processes, or of what forked them."""
        parent = self.ranks()[0].parent()
        if parent is not None and "mirage_core.distributed.fork_server" in " ".join(parent.cmdline()):
            parent = parent.parent()
        if parent is None or "prefect.engine" not in " ".join(parent.cmdline()):
            raise AssertionError(f"the training processes are no children of a flow: {parent}")
        return parent

    def wait_until_no_process_is_left(self, within_s: float) -> float:
        """Seconds until every training process was gone; AssertionError after ``within_s``."""
        began = time.monotonic()
        while self.ranks():
            if time.monotonic() - began > within_s:
                raise AssertionError(f"still there after {within_s} s: {self.ranks()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def end(self, *types: str) -> None:
        """Wait until the run ends in one of these states."""
        state = self.live.wait(self.flow_run, patience_s=PATIENCE_S)
        if state["type"] not in types:
            log_tail = "\n".join(self.live.logs(self.flow_run)[-40:])
            raise AssertionError(f"the run ended {state['name']}: {state['message']}, expected {types}\n{log_tail}")

    def retry_to_completion(self) -> None:
        """Press Retry when the accident is over, and wait for a good end."""
        self.settle()
        self.live.retry(self.flow_run)
        self.live.until(
            lambda: self.live.state(self.flow_run)["type"] in ("RUNNING", "COMPLETED"), "the retry runs", PATIENCE_S
        )
        self.end("COMPLETED")

    def settle(self) -> None:
        """Wait until nobody has anything more to say of the run's state.

        A Prefect worker reports a dead process twice, seconds apart; the second report takes back a Retry that was
        pressed in between, or calls a run Crashed that has begun again.
        """
        last_state, since = "", time.monotonic()
        while time.monotonic() - since < SETTLED_S:
            state = str(self.live.state(self.flow_run)["id"])
            if state != last_state:
                last_state, since = state, time.monotonic()
            time.sleep(0.5)

    def resumed_after(self) -> list[int]:
        """The steps that training went on after, one for each time."""
        matches = (RESUMED.search(line) for line in self.live.logs(self.flow_run))
        return [int(match.group(1)) for match in matches if match]

    def records(self) -> list[RunRecord]:
        """The records of this run's attempts, oldest first."""
        records = [load_record(self.store, name) for name in self.store.names("runs/")]
        return [record for record in records if record.flow_run == self.flow_run]

    def assert_all_is_well(self) -> None:
        """What was finished was not made again; every artifact is good; nothing half there; the GPU is free."""
        stamps = self.stamps()
        assert {path: stamps.get(path) for path in self.finished} == self.finished, "a finished stage ran again"
        faults = {artifact.path: self.store.verify(artifact) for artifact in self.store.list()}
        assert faults == {path: [] for path in stamps}
        assert self.checkpoints() == 0, "a finished training leaves no checkpoint"
        assert self.records()[-1].state == "Completed"
        assert {line.state for line in self.records()[-1].stages} <= {"Completed", "Cached"}
        # A slot whose release the server never answered is free when its lease ends, at the next look.
        free = lambda: self.live.get("v2/concurrency_limits/gpu")["active_slots"] == 0  # noqa: E731
        self.live.until(free, "a free GPU", LEASE_S + 30)
        assert self.ranks() == []


def until(reached: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until ``reached``."""
    deadline = time.monotonic() + patience_s
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.1)


def processes(*words: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and all(word in line for word in words):
                yield process
