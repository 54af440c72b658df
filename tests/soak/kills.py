"""Part "kills": SIGKILL at random points of the pipeline, again and again, until it is done; then the next pipeline."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mirage_core.pipeline.run_record import RunRecord, load_record
from mirage_core.pipeline.work_dirs import sweep
from mirage_core.store import Store
from mirage_core.store.artifact_folder import read_manifest
from mirage_core.store.garbage import find_garbage, remove_garbage
from mirage_core.store.manifest import MANIFEST
from tests.soak import audit as audits
from tests.soak.counts import Tally
from tests.soak.pipeline_run import CHECKPOINT_EVERY, PipelineRun, kill
from tests.soak.victim import End

OTHER = "final digests or scores other than undisturbed"
AGAIN = "more than one checkpoint interval done again"
UNUSED = "saved checkpoints not used"
TWICE = "finished stages run again"
FAILED = "attempts that failed without a kill"
STRAY = "processes left behind"
LITTER = "lock files left behind"
SCRATCH = "scratch folders that nothing removes"
GARBAGE = "leftovers in the store that gc does not find"
WRONGS = (*audits.WRONGS, OTHER, AGAIN, UNUSED, TWICE, FAILED, STRAY, LITTER, SCRATCH, GARBAGE)
TRAININGS = ("warmup", "grounding", "relaxation")
PATIENCE_S = 600.0

Advance = Callable[[int], None]

# How an attempt ends: at a time of the clock (one of three targets), or in a write to the store (two).
WAYS = {"main": 2, "rank": 2, "group": 2, "main in a write": 3, "group in a write": 2}


@dataclass(frozen=True)
class Undisturbed:
    """What a pipeline gives that nobody disturbs, and how long it is."""

    digests: Mapping[str, str | None]
    scores: tuple[Any, ...]
    seconds: float
    writes: int


def undisturbed(pipeline: PipelineRun) -> Undisturbed:
    """Walk the pipeline once without a fault."""
    started = time.monotonic()
    with pipeline:
        if pipeline.start().wait(timeout=PATIENCE_S):
            raise AssertionError(f"the undisturbed pipeline failed:\n{_tail(pipeline)}")
    record = _completed(pipeline)
    writes = sum(event["event"] == "write" for event in pipeline.events())
    return Undisturbed(_digests(record), record.scores, time.monotonic() - started, writes)


@dataclass
class Killer:
    """Walks pipelines until ``kills`` kills are done; everything is drawn from ``seed``."""

    kills: int
    seed: int
    model: Undisturbed
    tally: Tally
    done: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def run_to_end(self, pipeline: PipelineRun, advance: Advance) -> None:
        """One pipeline from an empty store to its end."""
        known: dict[str, str] = {}
        with pipeline:
            while not self._attempt(pipeline, known, advance):
                if pipeline.attempts > 20 + 2 * self.kills:
                    raise AssertionError(f"the pipeline does not come to its end:\n{_tail(pipeline)}")
        self.tally.count("pipelines completed")
        self._check_again(pipeline)
        self._check_end(pipeline)
        self._collect(pipeline, known)

    def _attempt(self, pipeline: PipelineRun, known: dict[str, str], advance: Advance) -> bool:
        """One attempt and what it left; True when the pipeline was completed."""
        way = self._drawn() if self.done < self.kills else None
        finished = set(known)
        status, killed = self._run(pipeline, way, advance)
        for stray in pipeline.all_gone():
            self.tally.fault(STRAY, f"{pipeline.folder.name}, attempt {pipeline.attempts}: {stray}")
        self.tally.count("attempts")
        if killed is not None:
            self._died(pipeline, killed, advance)
        elif status != 0:
            self.tally.fault(
                FAILED, f"{pipeline.folder.name}, attempt {pipeline.attempts}, status {status}: {_tail(pipeline)}"
            )
        audits.audit(
            pipeline.store(), known, self.tally, f"{pipeline.folder.name}, attempt {pipeline.attempts} ({killed})"
        )
        self._check_twice(pipeline, finished)
        return status == 0

    def _drawn(self) -> str:
        return self.chance.choices(list(WAYS), list(WAYS.values()))[0]

    def _run(self, pipeline: PipelineRun, way: str | None, advance: Advance) -> tuple[int, str | None]:
        """Run one attempt; its exit status, and how its main process was killed.

        A killed rank is the product's own affair: the attempt goes on, and may be killed again.
        """
        if way is None:
            return pipeline.start().wait(timeout=PATIENCE_S), None
        if way.endswith("in a write"):
            # Early writes are met in every attempt, late ones only in few: drawn so that all are met.
            write = 1 + int(self.model.writes * 0.5 * self.chance.random() ** 1.5)
            end = End(write, self.chance.random() * self.chance.choice([0.001, 0.01, 0.1]), way.startswith("group"))
            status = pipeline.start(end).wait(timeout=PATIENCE_S)
            return status, way if status == -9 else None
        process = pipeline.start()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.3 + self.chance.random() * 0.5 * self.model.seconds), None
            if way != "rank":
                killed = self._kill(pipeline, process, ranks_too=way == "group")
                return process.wait(timeout=PATIENCE_S), way if killed else None
            if self._kill_rank(pipeline, process):
                self._died(pipeline, "rank", advance)
            if self.done >= self.kills:
                return process.wait(timeout=PATIENCE_S), None
            way = self.chance.choice(["main", "group", "rank"])

    def _kill(self, pipeline: PipelineRun, process: subprocess.Popen[bytes], *, ranks_too: bool) -> bool:
        if process.poll() is not None:
            return False
        for rank in pipeline.ranks() if ranks_too else []:
            kill(rank.pid)
        return kill(process.pid)

    def _kill_rank(self, pipeline: PipelineRun, process: subprocess.Popen[bytes]) -> bool:
        """Kill a rank as soon as there is one."""
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            ranks = pipeline.ranks()
            if ranks:
                return kill(self.chance.choice(ranks).pid)
            time.sleep(0.02)
        return False

    def _died(self, pipeline: PipelineRun, way: str, advance: Advance) -> None:
        self.done += 1
        self.tally.count(f"killed: {way}")
        self.tally.count(f"killed in {_place_of_death(pipeline)}")
        advance(1)

    def _check_again(self, pipeline: PipelineRun) -> None:
        """Each time a training went on: from its last saved checkpoint, and no more than an interval done again."""
        for program in TRAININGS:
            worker, before, saved = None, 0, 0
            travelling: set[int] = set()
            for event in (e for e in pipeline.events() if e.get("program") == program):
                kind, step = event["event"], event.get("step", 0)
                if kind == "step":
                    if worker not in (None, event["pid"]):
                        self._judge(f"{pipeline.folder.name}: {program}", step, before, saved, travelling)
                    worker, before = event["pid"], max(before, step + 1)
                    self.tally.count("steps taken")
                elif kind == "announced":
                    travelling.add(step)
                elif kind == "saved":
                    saved = max(saved, step)
                    travelling = {other for other in travelling if other > saved}

    def _judge(self, name: str, first: int, before: int, saved: int, travelling: Collection[int]) -> None:
        self.tally.count("trainings resumed")
        self.tally.count("steps done again", before - first)
        self.tally.most("most steps done again", before - first)
        case = f"{name} was at step {before}, went on at {first}, saved {saved}, travelling {sorted(travelling)}"
        if first < saved:
            self.tally.fault(UNUSED, case)
        if travelling:
            self.tally.count("trainings resumed whose next checkpoint was travelling when they were killed")
        if first < min([before, *travelling]) - CHECKPOINT_EVERY:
            self.tally.fault(AGAIN, case)

    def _check_twice(self, pipeline: PipelineRun, finished: set[str]) -> None:
        """No stage whose artifact was complete before this attempt was started by it."""
        started = [line for line in pipeline.log_file.read_text(errors="replace").splitlines() if " started: " in line]
        for line in started:
            path = line.rsplit(" started: ", 1)[1].strip()
            if path in finished:
                self.tally.fault(TWICE, f"{pipeline.folder.name}, attempt {pipeline.attempts}: {line}")

    def _check_end(self, pipeline: PipelineRun) -> None:
        record = _completed(pipeline)
        digests = _digests(record)
        self.tally.count("final digests compared", len(digests))
        for stage in sorted(set(digests) | set(self.model.digests)):
            if digests.get(stage) != self.model.digests.get(stage):
                self.tally.fault(OTHER, f"{pipeline.folder.name}: {stage} has the digest {digests.get(stage)}")
        if record.scores != self.model.scores:
            self.tally.fault(OTHER, f"{pipeline.folder.name}: the scores are {record.scores}")
        for name in sorted((pipeline.folder / "home").rglob("*.lock")):
            self.tally.fault(LITTER, f"{pipeline.folder.name}: {name}")
        self.tally.count("checkpoints of published models left for gc", len(audits.checkpoints_left(pipeline.store())))
        # What the last killed attempt left goes with the next work on this machine.
        self.tally.count("scratch folders left for the next work", len(sweep(pipeline.folder / "tmp")))
        for scratch in (pipeline.folder / "tmp").glob("mirage-*"):
            self.tally.fault(SCRATCH, f"{pipeline.folder.name}: {scratch.name}")

    def _collect(self, pipeline: PipelineRun, known: dict[str, str]) -> None:
        """What the kills have left in the store is found and removed; nothing that is in use goes with it."""
        store = pipeline.store()
        for item in remove_garbage(store.backend, find_garbage(store.backend, 0.0)):
            self.tally.count(f"gc removed: {item.sort}")
        audits.audit(store, known, self.tally, f"{pipeline.folder.name}, after gc")
        wanted = {f"{path}/{name}" for path in known for name in self._files(store, path)}
        for name in store.backend.sizes(""):
            if name not in wanted and not name.startswith("runs/"):
                self.tally.fault(GARBAGE, f"{pipeline.folder.name}: {name}")
        for left in store.backend.unfinished():
            self.tally.fault(GARBAGE, f"{pipeline.folder.name}: {left.key} ({left.upload})")

    @staticmethod
    def _files(store: Store, path: str) -> list[str]:
        manifest = read_manifest(store.backend, path)
        return [MANIFEST, *(f"{manifest.folder}/{entry.name}" for entry in manifest.files)]


def _completed(pipeline: PipelineRun) -> RunRecord:
    """The record of the attempt that came to the end; its name sorts last."""
    store = pipeline.store()
    record = load_record(store, max(store.names("runs/")))
    if record.state != "Completed":
        raise AssertionError(f"the last record says {record.state}: {record.error}")
    return record


def _digests(record: RunRecord) -> dict[str, str | None]:
    return {stage.name: stage.digest for stage in record.stages}


def _tail(pipeline: PipelineRun) -> str:
    return "\n".join(pipeline.log_file.read_text(errors="replace").splitlines()[-25:])


def _place_of_death(pipeline: PipelineRun) -> str:
    """Where the last attempt was when it was killed, in words: a write to the store, a training, or between."""
    events = [event for event in pipeline.events() if event["attempt"] == pipeline.attempts]
    written = {e["number"] for e in events if e["event"] == "written"}
    for event in events:
        if event["event"] == "write" and event["number"] not in written:
            kind = event["key"].split("/")[0] or "store"
            what = "manifest" if event["key"].endswith("manifest.json") else "file"
            return f"a store's {event['op']} ({kind}, {what})"
    jobs = [e["program"] for e in events if e["event"] == "job"]
    steps = [e["program"] for e in events if e["event"] == "step"]
    if steps and jobs and steps[-1] == jobs[-1]:
        return f"or after the steps of {jobs[-1]}"
    return f"or before the work of {jobs[-1]}" if jobs else "the first stages"


def walk_all(
    kills: int,
    seed: int,
    model: Undisturbed,
    tally: Tally,
    pipelines: Callable[[int], PipelineRun],
    advance: Advance,
) -> None:
    """Roads, each in a fresh store, until all kills are done; a few more kills than asked for are not taken."""
    killer = Killer(kills, seed, model, tally)
    number = 0
    while killer.done < kills:
        number += 1
        killer.run_to_end(pipelines(number), advance)
