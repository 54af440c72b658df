"""A small quick pipeline in processes of its own: started, watched through its log, and asked what it has done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mirage_core.store import Store
from tests.soak.victim import End

ROOT = Path(__file__).parents[2]
MARK = "MIRAGE_SOAK_ROAD"
CHECKPOINT_EVERY = 6
STEP_S = 0.08  # an interval of half a second: longer than a checkpoint of this model travels
GONE_WITHIN_S = 60.0
OVERRIDES = (
    "runtime.engine=plain",  # DeepSpeed costs each process four seconds of import, and keeps the same state
    f"runtime.checkpoint_every={CHECKPOINT_EVERY}",
    "model.warmup.steps=20",
    "grounding.steps=20",
    "relaxation.steps=20",
    "evaluation.methods=[stage-2]",
    "problems.vsp_reasoning.test_per_level=2",
    "problems.vsp_planning.test_per_level=2",
)


@dataclass
class PipelineRun:
    """One run of the pipeline to its end, over as many attempts as it takes; all it leaves lies in ``folder``."""

    folder: Path
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    keep: bool = False
    attempts: int = 0

    def __enter__(self) -> PipelineRun:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever happened, nothing of it goes on."""
        for process in self.processes():
            kill(process.pid)

    def start(self, end: End | None = None) -> subprocess.Popen[bytes]:
        """Begin the next attempt, in a session of its own."""
        self.attempts += 1
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.soak.victim", "run", "--direct", "--recipe", "micro"]
        command += ["--store", self.url]
        for override in OVERRIDES:
            command += ["--set", override]
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._variables(end),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _variables(self, end: End | None) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MIRAGE_"))}
        known.update(
            self.environment,
            MIRAGE_HOME=str(self.folder / "home"),
            TMPDIR=str(self.folder / "tmp"),
            OMP_NUM_THREADS="1",
            HF_HUB_OFFLINE="1",
            PYTHONUNBUFFERED="1",
            COLUMNS="200",
            MIRAGE_SOAK_LOG=str(self.log),
            **({"MIRAGE_SOAK_KEPT": str(self.checkpoint_copies)} if self.keep else {}),
            MIRAGE_SOAK_ATTEMPT=str(self.attempts),
            MIRAGE_SOAK_STEP_S=str(STEP_S),
        )
        known[MARK] = str(self.folder)
        if end is not None:
            known["MIRAGE_SOAK_END"] = end.text()
        return known

    @property
    def log_file(self) -> Path:
        """What the processes of the last attempt printed."""
        return self.folder / f"output-{self.attempts}.txt"

    @property
    def log(self) -> Path:
        """What its processes noted."""
        return self.folder / "log.jsonl"

    @property
    def checkpoint_copies(self) -> Path:
        """Copies of its checkpoints, one folder each: relaxation-6, ..."""
        return self.folder / "kept"

    def store(self) -> Store:
        """Its store, seen by somebody else: a cache of its own."""
        return Store.open(self.url, cache=self.folder / "other-cache")

    def events(self) -> list[dict[str, Any]]:
        """What was noted so far; a killed process may leave half a line at the end of its writing, never elsewhere."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on behalf of this pipeline, whoever its parent is now."""
        return [process for process in psutil.process_iter() if _environ(process).get(MARK) == str(self.folder)]

    def ranks(self) -> list[psutil.Process]:
        """The training and evaluation ranks that run now."""
        return [process for process in self.processes() if "tests.soak.worker" in _words(process)]

    def all_gone(self) -> list[str]:
        """Wait for every process to end; the ones that do not are named and killed."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while left := self.processes():
            if time.monotonic() > deadline:
                names = [" ".join(_words(process))[:200] for process in left]
                for process in left:
                    kill(process.pid)
                return names
            time.sleep(0.1)
        return []


def kill(pid: int) -> bool:
    """SIGKILL; False where the process was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
