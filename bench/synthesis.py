"""The speed of data generation: problems, images and chains of each kind, in one process and in two.

``mirage bench synthesis`` runs every case in a fresh process and a fresh store through the stages ``problems``,
``auxiliary-images`` and ``examples`` (oracle teacher, CoT chains), so its peak memory is its own; the last cases
generate more and more mazes, to show how memory grows. Samples a second are examples over the seconds of all stages.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.shards import in_processes, in_shards
from mirage_core.pipeline.stage import run_stage
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import Artifact

KINDS = ("vsp-planning", "vsp-reasoning", "jigsaw")
SAMPLES = 1000
GROWTH = (1000, 3000, 10_000)
_SECTIONS = {kind: kind.replace("-", "_") for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Row:
    """One case: seconds of each stage, examples a second over all three, and the peak memory of its process."""

    kind: str
    samples: int
    processes: int
    problems_s: float
    pictures_s: float
    chains_s: float
    samples_per_second: float
    peak_mib: float


def cases(quick: bool) -> Iterator[tuple[str, int, int]]:
    """Yield kind, samples and processes of every case."""
    samples = 100 if quick else SAMPLES
    for kind in KINDS:
        for processes in (1, 2):
            yield kind, samples, processes
    for more in GROWTH[1:]:
        yield KINDS[0], more // 10 if quick else more, 1


_CASE = "from mirage_app import provide; provide(); from bench.synthesis import main; main()"
"""A case in a process of its own, in a checkout and installed."""


def measure(on_row: Callable[[Row], None], *, quick: bool) -> list[Row]:
    """Measure every case in a process of its own."""
    rows = []
    for kind, samples, processes in cases(quick):
        command = [sys.executable, "-c", _CASE, kind, str(samples), str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[1:])} exited with {done.returncode}:\n{done.stderr[-2000:]}")
        rows.append(Row(**json.loads(done.stdout.splitlines()[-1])))
        on_row(rows[-1])
    return rows


def run_case(kind: str, samples: int, processes: int) -> Row:
    """Generate the samples of one kind in this process (and its shards), in a temporary store."""
    absent = [f"problems.{_SECTIONS[other]}=null" for other in KINDS if other != kind]
    section = f"problems.{_SECTIONS[kind]}"
    no_test = f"{section}.test=0" if kind == "jigsaw" else f"{section}.test_per_level=0"
    chosen = [f"{section}.train={samples}", f"{section}.validation=0", no_test]
    settings = load("tiny", [*absent, *chosen, "teacher.variant=cot", f"runtime.shards={processes}"])
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        store = Store.open(folder)
        fan_out = in_processes(partial(Store.open, store.url, store.cache))

        def step(name: str, **inputs: Artifact) -> Artifact:
            stage = in_shards(STAGES[name], settings, fan_out)
            result = run_stage(stage, settings, inputs, store, lambda _: None)
            seconds[name] = result.seconds
            return result.artifact

        problems = step("problems")
        images = step("auxiliary-images", problems=problems)
        examples = step("examples", problems=problems, auxiliary_images=images).summary["examples"]
    return Row(
        kind=kind,
        samples=examples,
        processes=processes,
        problems_s=round(seconds["problems"], 2),
        pictures_s=round(seconds["auxiliary-images"], 2),
        chains_s=round(seconds["examples"], 2),
        samples_per_second=round(examples / sum(seconds.values()), 1),
        peak_mib=round(_peak_mib(), 1),
    )


def _peak_mib() -> float:
    """Return the largest resident memory of this process or one of its children."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(whose).ru_maxrss for whose in who) / 1024


def main() -> None:
    """Run one case and print it as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("samples", type=int)
    parser.add_argument("processes", type=int)
    arguments = parser.parse_args()
    print(json.dumps(asdict(run_case(arguments.kind, arguments.samples, arguments.processes))))


if __name__ == "__main__":
    main()
