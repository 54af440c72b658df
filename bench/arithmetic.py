"""Whether a training gives the same bits on other CPUs, and what ``runtime.portable_math`` costs.

``mirage bench arithmetic`` trains the film and direct SFT for a few steps, from one base model and one data set, each
in a process as the product starts it: with the arithmetic that the libraries choose (native) and with
``runtime.portable_math`` (portable), the latter also on CPUs that qemu emulates (Debian: qemu-user; minutes each).
Equal digests of all weights are equal bits. Speed is compared on this CPU alone: the seconds of more steps less those
of a few.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import Settings
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.errors import InputError, MirageError
from mirage_core.model.card import ABOUT_FILE
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.recipes import load
from mirage_core.store.records import save_examples, save_problems
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher import make_teacher, write_examples
from mirage_core.types import ProgressEvent

HERE = "this one"
CASES = {"native": False, "portable": True}
PROGRAMS: tuple[ProgramName, ...] = ("film", "text")
ROWS = 16
"""Rows of a step: emulation is a hundred times slower."""
EMULATOR = "qemu-x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arithmetic on one CPU: how torch names it, digests of the weights after ``steps`` steps, and the cost.

    ``ratio``: seconds of a step over native ones, median of the rounds; None for native and for emulated CPUs.
    """

    cpu: str
    case: str
    arithmetic: str
    steps: int
    film: str
    direct_sft: str
    ratio: float | None = None


def measure(
    cpus: Sequence[str] = (),
    on_progress: Callable[[str], None] = print,
    *,
    recipe: str = "tiny",
    cases: Sequence[str] = tuple(CASES),
    steps: int = 2,
    more_steps: int = 40,
    rounds: int = 3,
) -> list[Row]:
    """Train the ``cases`` here, and portably on the emulated ``cpus`` (names of ``qemu-x86_64 -cpu help``).

    ``rounds``: of the comparison of speed, with ``more_steps`` steps more; 0 for none. InputError for numbers below
    one, and for CPUs without qemu; MirageError where a training fails, with the end of its log.
    """
    if steps < 1 or more_steps < 1 or rounds < 0:
        raise InputError(f"--steps is {steps}, --more-steps {more_steps}, --rounds {rounds}; expected 1, 1, 0 or more")
    if cpus and shutil.which(EMULATOR) is None:
        raise InputError(
            f"{EMULATOR} was not found, which emulates {', '.join(cpus)}; install it: apt install qemu-user"
        )
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        bench = Trainings(Path(folder), recipe)
        ratio = bench.ratio(steps, more_steps, rounds, on_progress) if rounds else None
        todo = [*((HERE, case) for case in cases), *((cpu, "portable") for cpu in cpus)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [(each, pool.submit(bench.train, *each, steps)) for each in todo]
            return [_row(cpu, case, steps, future.result(), ratio) for (cpu, case), future in done]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training took in seconds, the digests of its weights by program, and the name of its arithmetic."""

    seconds: float
    digests: dict[str, str]
    arithmetic: str


class Trainings:
    """The inputs of the trainings, in a folder that also takes their output."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self._folder, self._recipe = folder, recipe
        self._inputs = {name: folder / name for name in ("model", "examples", "problems")}
        self._number = 0
        settings = self._settings(1, portable=False)
        problems = [
            each for each in generate_problems(settings.problems, settings.seed, _quiet) if each.split != "test"
        ]
        images = draw_auxiliary_images(
            problems, settings.auxiliary_images, settings.problems.cell_px, settings.seed, _quiet
        )
        examples = write_examples(make_teacher(settings.teacher), problems, images, settings.teacher.variant, _quiet)
        for name in ("examples", "problems"):
            self._inputs[name].mkdir()
        save_problems(self._inputs["problems"] / "problems.parquet", problems)
        save_examples(self._inputs["examples"] / "examples.parquet", examples, film=True)
        base = build_base_model(settings.model, settings.seed)
        save_model(self._inputs["model"], base.backbone, base.processor, {"stage": "base"})

    def train(self, cpu: str, case: str, steps: int) -> Trained:
        """Run every program in a process of its own, one after another."""
        begun = time.perf_counter()
        outputs = {program: self._run(program, cpu, case, steps) for program in PROGRAMS}
        seconds = time.perf_counter() - begun
        about = json.loads((outputs["film"] / ABOUT_FILE).read_text(encoding="utf-8"))
        return Trained(
            seconds, {name: _digest(output) for name, output in outputs.items()}, about["history"][-1]["arithmetic"]
        )

    def ratio(self, steps: int, more: int, rounds: int, on_progress: Callable[[str], None]) -> float:
        """Return how much longer a portable step takes than a native one; both in turn, round after round."""
        ratios: list[float] = []
        for number in range(1, rounds + 1):
            seconds = {
                case: self.train(HERE, case, steps + more).seconds - self.train(HERE, case, steps).seconds
                for case in CASES
            }
            ratios.append(seconds["portable"] / seconds["native"])
            on_progress(f"round {number} of {rounds}: portable steps take {ratios[-1]:.2f} times as long")
        return statistics.median(ratios)

    def _run(self, program: ProgramName, cpu: str, case: str, steps: int) -> Path:
        self._number += 1
        folder = self._folder / f"{self._number}-{cpu.replace(' ', '-')}-{case}-{program}"
        folder.mkdir()
        settings = self._settings(steps, portable=CASES[case])
        job = Job(
            program=program,
            settings=settings,
            seed=settings.seed,
            inputs=self._inputs,
            output=folder / "output",
            scratch=folder / "scratch",
        )
        (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
        emulator = [] if cpu == HERE else [EMULATOR, "-cpu", cpu]
        worker = [sys.executable, "-m", "mirage_core.pipeline.worker", str(folder / "job.json")]
        result = subprocess.run(
            [*emulator, *worker, "--rank", "0", "--world-size", "1"], capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise MirageError(f"{program} failed on {cpu} ({case}): {result.stderr[-2000:] or result.returncode}")
        return folder / "output"

    def _settings(self, steps: int, *, portable: bool) -> Settings:
        problems = {"vsp_planning": ROWS * 2, "vsp_reasoning": ROWS * 2}
        return load(
            self._recipe,
            [
                *(f"problems.{name}.{split}={count}" for name, most in problems.items()
                  for split, count in (("train", most), ("validation", 4))),
                *(f"{section}.{name}={value}" for section in ("film", "direct_sft")
                  for name, value in (("steps", steps), ("batch_size", ROWS), ("warmup_steps", 1))),
                "runtime.engine=plain", "runtime.processes=1", "runtime.threads=1",
                f"runtime.portable_math={str(portable).lower()}",
            ],
        )  # fmt: skip


def _digest(folder: Path) -> str:
    """Return 16 characters of the sha256 of all weights of a model folder."""
    files: Iterator[Path] = (file for file in sorted(folder.glob("*.safetensors")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _row(cpu: str, case: str, steps: int, trained: Trained, ratio: float | None) -> Row:
    return Row(
        cpu=cpu,
        case=case,
        arithmetic=trained.arithmetic,
        steps=steps,
        film=trained.digests["film"],
        direct_sft=trained.digests["text"],
        ratio=ratio if (cpu, case) == (HERE, "portable") else None,
    )


def _quiet(event: ProgressEvent) -> None:
    """Say nothing."""
