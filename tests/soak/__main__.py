"""`python -m tests.soak`: run the parts that were asked for, show what is going on, print the counts as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.servers.swift import SwiftServer
from tests.soak import calls, flips, kills, writers
from tests.soak.counts import Tally
from tests.soak.pipeline_run import ROOT, PipelineRun

PARTS = ("kills", "calls", "writers", "flips")
PLACES = ("local", "s3")
LONG = {"kills": 200, "calls": 400, "rounds": 500, "s3_rounds": 60, "flips": 1000, "s3_flips": 100, "reruns": 24}
SHORT = {"kills": 4, "calls": 20, "rounds": 30, "s3_rounds": 3, "flips": 60, "s3_flips": 12, "reruns": 3}


KEPT_EVERY_S = 5.0


@dataclass
class Soak:
    """What every part works with, and what was counted so far."""

    options: argparse.Namespace
    folder: Path
    progress: Progress
    server: SwiftServer | None
    tallies: list[Tally] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    last_saved: float = 0.0

    def tally(self, part: str, wrong: Sequence[str]) -> Tally:
        """The counts of a part that begins, which is when the one before it ends."""
        if self.tallies:
            self.tallies[-1].end()
        self.tallies.append(Tally(part, wrong))
        return self.tallies[-1]

    def counts(self, *, complete: bool) -> dict[str, Any]:
        """Everything counted so far, for people and programs."""
        return {
            "good": all(tally.good for tally in self.tallies),
            "complete": complete,
            "seconds": round(time.monotonic() - self.started, 1),
            "seed": self.options.seed,
            "machine": machine(),
            "parts": [tally.as_json() for tally in self.tallies],
        }

    def keep(self, *, complete: bool = False) -> None:
        """Write the counts so far, every few seconds: a long soak that is stopped has counted something, too."""
        if self.options.json is None or (not complete and time.monotonic() - self.last_saved < KEPT_EVERY_S):
            return
        self.last_saved = time.monotonic()
        self.options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.counts(complete=complete), indent=1, ensure_ascii=False)
        fresh = self.options.json.with_suffix(".partial")
        fresh.write_text(text + "\n", encoding="utf-8")
        os.replace(fresh, self.options.json)

    def s3(self) -> SwiftServer:
        """The S3 server; only parts that were asked to use S3 ask for it."""
        if self.server is None:
            raise AssertionError("no S3 server was started")
        return self.server

    def task(self, name: str, total: int) -> Callable[[int], None]:
        """A line of the progress display; call it with how much further it is."""
        task = self.progress.add_task(name, total=total)

        def advance(amount: int) -> None:
            self.progress.advance(task, amount)
            self.keep()

        return advance


def run_kills(soak: Soak) -> None:
    """Half of the kills on each kind of store."""
    counts = _shares(soak.options.kills, len(soak.options.where))
    for number, where in enumerate(soak.options.where):
        environment = soak.s3().environment() if where == "s3" else {}

        def pipeline(which: object, where: str = where, environment: dict[str, str] = environment) -> PipelineRun:
            folder = soak.folder / f"pipeline-{where}-{which}"
            folder.mkdir()
            url = f"{soak.s3().bucket()}/store" if where == "s3" else str(folder / "store")
            return PipelineRun(folder, url, environment)

        advance = soak.task(f"kills, {where}", counts[number])
        with _environment(environment):
            tally = soak.tally(f"kills, {where}", kills.WRONGS)
            model = kills.undisturbed(pipeline("undisturbed"))
            tally.figures["undisturbed pipeline"] = {"seconds": round(model.seconds, 1), "writes": model.writes}
            kills.walk_all(counts[number], soak.options.seed + number, model, tally, pipeline, advance)


def run_bad_calls(soak: Soak) -> None:
    """The store's operations over a bad line to S3."""
    if "s3" not in soak.options.where:
        return
    server = soak.s3()
    url = f"{server.bucket()}/store"
    with _environment(server.environment()):
        for rate, part in calls.RATES.items():
            name = f"calls, {rate:.0%} fail"
            each = max(1, soak.options.calls // part // calls.WORKERS)
            work = calls.Work(server, f"{url}/rate-{rate * 100:.0f}", rate, each, soak.options.seed, soak.folder / name)
            calls.run_calls(work, soak.tally(name, calls.WRONGS), soak.task(name, each * calls.WORKERS))


def run_writers(soak: Soak) -> None:
    """Races on each kind of store."""
    for where in soak.options.where:
        rounds = soak.options.s3_rounds if where == "s3" else soak.options.rounds
        folder = soak.folder / f"writers-{where}"
        folder.mkdir()
        environment = soak.s3().environment() if where == "s3" else {}
        url = f"{soak.s3().bucket()}/store" if where == "s3" else str(folder / "store")
        tally = soak.tally(f"writers, {where}", writers.WRONGS)
        tally.figures["writers"] = soak.options.writers
        with _environment(environment):
            race = writers.Race(url, environment, folder, rounds, soak.options.seed)
            writers.run_writers(race, soak.options.writers, tally, soak.task(f"writers, {where}", rounds))


def run_flips(soak: Soak) -> None:
    """Damages to a store with something of every kind, here and on S3, and stages that mend them."""
    folder = soak.folder / "flips"
    folder.mkdir()
    pipeline = PipelineRun(folder, str(folder / "pristine"), keep=True)
    kills.undisturbed(pipeline)
    pristine = flips.Pristine.of(pipeline)
    for where in soak.options.where:
        amount = soak.options.s3_flips if where == "s3" else soak.options.flips - soak.options.s3_flips
        environment = soak.s3().environment() if where == "s3" else {}
        url = f"{soak.s3().bucket()}/store" if where == "s3" else str(folder / "damaged")
        tally = soak.tally(f"flips, {where}", flips.WRONGS)
        with _environment(environment):
            store = flips.store_beside(folder, url)
            flipper = flips.Flipper(pristine, store, soak.options.seed, tally)
            flipper.run(amount, soak.task(f"flips, {where}", amount))
            if where == "local":
                again = PipelineRun(folder / "again", url)
                flipper.rerun(again, soak.options.reruns, soak.task("flips, stages run again", soak.options.reruns))


RUN: dict[str, Callable[[Soak], None]] = {
    "kills": run_kills,
    "calls": run_bad_calls,
    "writers": run_writers,
    "flips": run_flips,
}


@contextlib.contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _shares(total: int, parts: int) -> list[int]:
    """A number cut into equal whole parts, the first ones larger."""
    return [total // parts + (at < total % parts) for at in range(parts)]


def machine() -> dict[str, Any]:
    """Where this ran, and on which code."""
    commit = _git("rev-parse", "--short", "HEAD")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit,
        "changed_files": len(_git("status", "--short").splitlines()),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a size that is not given is that of the short form, or of the long one with ``--long``."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas. [%(default)s]")
    parser.add_argument("--where", default=",".join(PLACES), help="on which stores. [%(default)s]")
    parser.add_argument("--long", action="store_true", help=f"the long form: {LONG}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, help="SIGKILLs, over all stores")
    parser.add_argument(
        "--calls", type=int, help="operations where 10 %% of calls fail; half of them at 50 %%, a quarter at 90 %%"
    )
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rounds", type=int, help="rounds of the writers on a local store")
    parser.add_argument("--s3-rounds", type=int, help="the same on S3")
    parser.add_argument("--flips", type=int, help="bit flips and truncations, over all stores")
    parser.add_argument("--s3-flips", type=int, help="how many of them on S3")
    parser.add_argument("--reruns", type=int, help="damages after which the stage is run again")
    parser.add_argument("--json", type=Path, help="write the counts to this file too, also while it runs")
    parser.add_argument("--folder", type=Path, help="work here and leave everything; must not be there yet")
    options = parser.parse_args(arguments)
    for name, size in (LONG if options.long else SHORT).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    options.parts, options.where = _chosen(parser, options.parts, PARTS), _chosen(parser, options.where, PLACES)
    return options


def _chosen(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or set(words) - set(known):
        parser.error(f"got {text!r}, expected some of {', '.join(known)}")
    return [word for word in known if word in words]


@contextlib.contextmanager
def _folder(options: Path | None) -> Iterator[Path]:
    if options is not None:
        options.mkdir(parents=True)
        yield options.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="mirage-soak-") as temporary:
        yield Path(temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every count that must be 0 is, 1 otherwise."""
    options = parse(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(options.folder))
        server = stack.enter_context(SwiftServer(folder / "swift")) if "s3" in options.where else None
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        soak = Soak(options, folder, progress, server)
        for part in options.parts:
            RUN[part](soak)
    counts = soak.counts(complete=True)
    print(json.dumps(counts, indent=1, ensure_ascii=False))
    soak.keep(complete=True)
    return 0 if counts["good"] else 1


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith(("AWS_", "MIRAGE_"))]:
        del os.environ[name]
    # Nobody's real buckets, nor their keys; nothing here waits for a cloud's metadata service.
    os.environ.update(
        AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, AWS_EC2_METADATA_DISABLED="true"
    )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers and pipelines end with it
    sys.exit(main())
