"""Stages of a run side by side: each begins when its inputs are there and one of so many slots is free."""

from __future__ import annotations

import contextvars
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mirage_core.config import Settings
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.pipeline.pipeline import Step, run_pipeline
from mirage_core.pipeline.stage import end_work
from mirage_core.types import Artifact

Handle = Future[Artifact]


def run_stages(settings: Settings, step: Step[Artifact]) -> dict[str, Artifact]:
    """Run the pipeline, ``runtime.stages_at_once`` stages at a time; returns the artifact of every stage by its label.

    Of the stages whose inputs are there the first of the pipeline begins first. After a failure no stage begins any
    more; those that run go on to their end, so that their work is not lost, then the first error is raised. What is no
    Exception (a cancelled run) ends all stages: jobs at once after Ctrl-C, otherwise when they have saved.
    """
    slots = settings.runtime.stages_at_once
    if slots == 1:
        return run_pipeline(settings, step)
    stages = StageQueue(step)
    handles = run_pipeline(settings, stages.add)
    with ThreadPoolExecutor(slots, thread_name_prefix="stage") as pool, end_work() as end:
        try:
            with cancel_jobs_on_interrupt(), _sigterm_raises():
                # A flow's run, and where a teacher's key is found, are context variables.
                workers = [pool.submit(contextvars.copy_context().run, stages.work) for _ in range(slots)]
                for worker in as_completed(workers):
                    worker.result()
        except BaseException:
            end.set()
            stages.stop()
            raise
    if stages.error is not None:
        raise stages.error
    return {label: handle.result() for label, handle in handles.items()}


@dataclass(slots=True, eq=False)
class _Waiting:
    """A stage that has not begun."""

    run: Callable[..., Artifact]
    inputs: Mapping[str, Handle]
    handle: Handle = field(default_factory=Future)

    @property
    def is_ready(self) -> bool:
        return all(handle.done() for handle in self.inputs.values())


class StageQueue:
    """The stages that wait, in the pipeline's order; threads take from it. ``error``: the first that a stage raised."""

    def __init__(self, step: Step[Artifact]) -> None:
        self.error: BaseException | None = None
        self._step = step
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()

    def add(self, name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle:
        """Add a stage; returns what will be its artifact."""
        self._waiting.append(_Waiting(partial(self._step, name, params), inputs))
        return self._waiting[-1].handle

    def work(self) -> None:
        """Run one stage after the other until none is left."""
        while (stage := self._next()) is not None:
            try:
                artifact = stage.run(**{key: handle.result() for key, handle in stage.inputs.items()})
            except BaseException as error:
                self.stop(error)
                if not isinstance(error, Exception):
                    raise
                return
            with self._changed:
                stage.handle.set_result(artifact)
                self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Let no stage begin any more."""
        with self._changed:
            self.error = self.error or error
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> _Waiting | None:
        """Wait for a stage whose inputs are there, and take it; None: none is left."""
        with self._changed:
            while self._waiting:
                ready = next((stage for stage in self._waiting if stage.is_ready), None)
                if ready is not None:
                    self._waiting.remove(ready)
                    return ready
                self._changed.wait()
            return None


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, unless this process has a handler: the stages run in other threads."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: object) -> None:  # noqa: ARG001 (a handler's signature)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
