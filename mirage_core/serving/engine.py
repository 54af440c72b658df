"""The thread that decodes: requests wait in a queue, join the running rows as these become free, and leave."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mirage_core.errors import InputError
from mirage_core.generation.continuous import ContinuousDecoder, RowSettings, RowStep
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.serving.limits import EngineFailed

logger = logging.getLogger(__name__)

Deliver = Callable[[Sequence[tuple[int, RowStep]] | Exception], None]
"""Gets what a step gave the answers of a job, by their numbers, or the error that ended it; in the engine's thread."""


PATIENCE = 4
"""Steps for which a job waits for others to be encoded with."""
_FREE_PADDING = 64


@dataclass(eq=False, slots=True)
class Job:
    """A prompt with the settings of its answers, and where these go. ``joined``: called when they begin to run.

    ``name``: jobs of the same have the same prompt; None: no other job has it.
    """

    prompt: EncodedPrompt
    rows: Sequence[RowSettings]
    deliver: Deliver
    joined: Callable[[], None]
    name: bytes | None = None
    numbers: list[int] = field(default_factory=list)


class Shared(list[Job]):
    """Jobs of one prompt, which is encoded once for all their answers."""

    @property
    def prompt(self) -> EncodedPrompt:
        """The prompt."""
        return self[0].prompt

    @property
    def rows(self) -> list[RowSettings]:
        """The settings of all answers, job by job."""
        return [row for job in self for row in job.rows]

    @property
    def size(self) -> tuple[int, int]:
        """Its answers and the tokens of its prompt: prompts of one number of answers can be encoded together."""
        return len(self.rows), len(self.prompt.ids)


def grouped(prompts: Iterable[Shared]) -> list[list[Shared]]:
    """Split prompts into groups of one number of answers, which fill a pass over them but for a fifth and a bit:
    a pass costs much by itself, and padding as much as other tokens.
    """
    groups: list[list[Shared]] = []
    for shared in sorted(prompts, key=lambda shared: shared.size):
        group = [*groups[-1], shared] if groups and len(groups[-1][0].rows) == len(shared.rows) else []
        tokens = sum(len(each.prompt.ids) for each in group)
        if group and len(group) * len(shared.prompt.ids) <= 1.25 * tokens + _FREE_PADDING:
            groups[-1] = group
        else:
            groups.append([shared])
    return groups


class Engine:
    """Decodes jobs, at most ``max_rows`` answers side by side. Safe to use from any thread."""

    def __init__(self, make_decoder: Callable[[], ContinuousDecoder], max_rows: int) -> None:
        self._make_decoder, self._max_rows = make_decoder, max_rows
        self._decoder = make_decoder()
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._leaving: list[tuple[Job, int | None]] = []
        self._jobs: dict[int, tuple[Job, int]] = {}
        self._joining: set[Job] = set()
        self._deferred = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="mirage-engine", daemon=True)

    @property
    def running(self) -> int:
        """The number of answers that are being decoded."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the engine takes jobs."""
        return self._thread.is_alive() and not self._stopped

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. EngineFailed once the engine is stopped."""
        with self._changed:
            if self._stopped:
                raise EngineFailed("the server is going down")
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job, choice: int | None = None) -> None:
        """Drop a job, waiting or running, or one of its answers, before the next step; nothing of what has ended."""
        with self._changed:
            self._leaving.append((job, choice))
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; jobs that are left get EngineFailed."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting or self._leaving or self._jobs)
                stopped, leaving, self._leaving = self._stopped, self._leaving, []
                for job, choice in leaving:
                    if choice is None and job in self._waiting:
                        self._waiting.remove(job)
                        job.joined()
            if stopped:
                self._fail(EngineFailed("the server is going down"))
                return
            try:
                self._leave(leaving)
                self._join()
                self._deliver(self._decoder.step())
            except Exception as error:  # whatever it was, the next requests get a fresh decoder
                logger.exception("decoding failed")
                self._fail(EngineFailed(f"decoding failed ({type(error).__name__}): the server's log tells more"))
                self._decoder = self._make_decoder()

    def _leave(self, leaving: Sequence[tuple[Job, int | None]]) -> None:
        """Drop the rows of cancelled jobs and answers."""
        rows = {
            number
            for job, choice in leaving
            for number in job.numbers
            if number in self._jobs and choice in (None, self._jobs[number][1])
        }
        self._decoder.leave(rows)
        for number in rows:
            del self._jobs[number]

    def _join(self) -> None:
        """Let waiting jobs run, in their order, as far as there are free rows."""
        groups = deque(self._next_groups())
        self._joining = {job for group in groups for shared in group for job in shared}
        while groups:
            group = groups.popleft()
            jobs = [job for shared in group for job in shared]
            try:
                numbers = self._decoder.join([shared.prompt for shared in group], [shared.rows for shared in group])
            except InputError as error:
                if len(group) > 1:  # whose fault it is shows when each is encoded alone
                    groups.extendleft([shared] for shared in group)
                    continue
                for job in jobs:
                    job.deliver(error)
            else:
                self._begin(jobs, [number for own in numbers for number in own])
            for job in jobs:
                self._joining.remove(job)
                job.joined()

    def _begin(self, jobs: Sequence[Job], numbers: Sequence[int]) -> None:
        """Take note of the rows of jobs, which run now in their order."""
        left = iter(numbers)
        for job in jobs:
            job.numbers = [next(left) for _ in job.rows]
            self._jobs |= {number: (job, choice) for choice, number in enumerate(job.numbers)}

    def _next_groups(self) -> list[list[Shared]]:
        """Take the jobs that fit, those of one prompt together, in groups to be encoded together."""
        prompts: dict[object, Shared] = {}
        free = self._max_rows - len(self._jobs)
        with self._changed:
            if not self._may_join(free):
                return []
            while self._waiting and len(self._waiting[0].rows) <= free:
                job = self._waiting.popleft()
                free -= len(job.rows)
                prompts.setdefault(job if job.name is None else job.name, Shared()).append(job)
        return grouped(prompts.values())

    def _may_join(self, free: int) -> bool:
        """Whether jobs join now. A pass over prompts halts all that runs, so it waits for more of them for PATIENCE
        steps, unless no fewer answers wait than run.
        """
        fits = bool(self._waiting) and len(self._waiting[0].rows) <= free
        enough = sum(len(job.rows) for job in self._waiting) >= len(self._jobs)
        joins = fits and (enough or self._deferred == PATIENCE)
        self._deferred = self._deferred + 1 if fits and not joins else 0
        return joins

    def _deliver(self, steps: Sequence[RowStep]) -> None:
        """Give every job what the step gave its rows."""
        parts: dict[Job, list[tuple[int, RowStep]]] = {}
        for step in steps:
            job, choice = self._jobs[step.row]
            parts.setdefault(job, []).append((choice, step))
            if step.answer is not None:
                del self._jobs[step.row]
        for job, part in parts.items():
            job.deliver(part)

    def _fail(self, error: Exception) -> None:
        """End all jobs with an error."""
        with self._changed:
            waiting, running = {*self._waiting, *self._joining}, {job for job, _ in self._jobs.values()}
            self._waiting.clear()
            self._joining.clear()
            self._jobs.clear()
        for job in waiting:
            job.joined()
        for job in (*waiting, *running):
            job.deliver(error)
