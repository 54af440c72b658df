"""Part "writers": many processes publish one artifact at once, round after round, while others read."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from mirage_core.distributed.worker import die_with_parent
from mirage_core.errors import MirageError
from mirage_core.store import Store, fingerprint
from mirage_core.store.manifest import MANIFEST
from mirage_core.types import Artifact
from tests.soak.counts import Tally

TWO = "rounds with more than one winner"
OTHER = "writers that were given another digest than the store holds"
FAULTY = "winners that do not verify"
FAILED = "writers that failed"
SEEN = "readers that saw something faulty or another winner"
WRONGS = (TWO, OTHER, FAULTY, FAILED, SEEN)
READERS = 2
KIND = "raced"
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Race:
    """What every process is told."""

    url: str
    environment: Mapping[str, str]
    folder: Path
    rounds: int
    seed: int

    def open(self, who: str) -> Store:
        """This process's own view of the store."""
        os.environ.update(self.environment)
        return Store.open(self.url, cache=self.folder / who)

    def identified(self, number: int) -> str:
        """The fingerprint of a round."""
        return fingerprint(KIND, 1, [self.seed, number], {})


def run_writers(race: Race, writers: int, tally: Tally, advance: Callable[[int], None]) -> None:
    """``rounds`` rounds of ``writers`` processes, and two readers; the winners are read again at the end."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(writers + READERS + 1, timeout=PATIENCE_S)
    answers = context.Queue()
    processes = [context.Process(target=write, args=(race, n, barrier, answers), daemon=True) for n in range(writers)]
    processes += [context.Process(target=read, args=(race, n, barrier, answers), daemon=True) for n in range(READERS)]
    for process in processes:
        process.start()
    messages: dict[int, list[str]] = {}
    try:
        for number in range(race.rounds):
            barrier.wait()
            for _ in range(writers + READERS):
                _take(answers.get(timeout=PATIENCE_S), messages.setdefault(number, []), tally)
            advance(1)
        for process in processes:
            process.join(timeout=PATIENCE_S)
    finally:
        for process in processes:
            process.kill()
    for number in range(race.rounds):
        _judge(race, number, messages[number], tally)


def _take(answer: dict[str, Any], digests: list[str], tally: Tally) -> None:
    for name, amount in answer["done"].items():
        tally.count(name, amount)
    for name, case in answer["faults"]:
        tally.fault(name, case)
    digests.extend(answer["digests"])


def _judge(race: Race, number: int, digests: list[str], tally: Tally) -> None:
    """One winner, whole, that every writer was told of; nothing of the losers."""
    store = race.open("judge")
    artifact = store.find(KIND, race.identified(number))
    tally.count("rounds")
    if len(set(digests)) != 1:
        tally.fault(TWO, f"round {number}: writers were given {sorted(set(digests))}")
    if artifact is None or store.verify(artifact):
        tally.fault(FAULTY, f"round {number}: {artifact and store.verify(artifact)}")
        return
    wrong = sum(digest != artifact.digest for digest in digests)
    if wrong:
        tally.fault(OTHER, f"round {number}: {wrong} of {len(digests)} writers")
    inside = store.backend.sizes(artifact.path)
    folders = {name.split("/")[0] for name in inside if name != MANIFEST}
    tally.count("folders of losers, for gc", len(folders) - 1)


def write(race: Race, who: int, barrier: Barrier, answers: Any) -> None:
    """Publish in every round; half of the rounds all writers have the same contents, else three sorts of them."""
    die_with_parent(os.getppid())
    store = race.open(f"writer-{who}")
    for number in range(race.rounds):
        chance = random.Random(f"{race.seed} {number}")
        sort = who % 3 if chance.random() < 0.5 else 0
        folder = race.folder / f"source-{who}"
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        (folder / "one").write_text(f"round {number}, contents {sort}\n" * 50)
        (folder / "sub" / "two").write_bytes(random.Random(f"{number} {sort}").randbytes(20_000))
        barrier.wait()
        time.sleep(random.Random(f"{race.seed} {number} {who}").random() * chance.choice([0.0, 0.002, 0.02]))
        answer: dict[str, Any] = {"done": {"artifacts published": 1}, "faults": [], "digests": []}
        try:
            artifact = store.publish(KIND, race.identified(number), folder, summary={"sort": sort}, about={})
            answer["digests"].append(artifact.digest)
        except Exception as error:
            answer["faults"].append((FAILED, f"round {number}: {type(error).__name__}: {error}"))
        answers.put(answer)


def read(race: Race, who: int, barrier: Barrier, answers: Any) -> None:
    """Look for the round's artifact from its start until it is there and some looks longer: always whole, always it."""
    die_with_parent(os.getppid())
    store = race.open(f"reader-{who}")
    for number in range(race.rounds):
        barrier.wait()
        reads, seen, faults = 0, 0, []
        first: Artifact | None = None
        deadline = time.monotonic() + PATIENCE_S
        while seen < 5 and time.monotonic() < deadline:
            reads += 1
            artifact = store.find(KIND, race.identified(number))
            if artifact is None:
                if first is not None:
                    faults.append((SEEN, f"round {number}: {first.digest[:12]} was there, and is gone"))
                continue
            seen += 1
            first = first or artifact
            if artifact.digest != first.digest:
                faults.append((SEEN, f"round {number}: first {first.digest[:12]}, then {artifact.digest[:12]}"))
            with _accused(faults, number):
                store.fetch(artifact)
        answers.put({"done": {"looks of readers": reads}, "faults": faults, "digests": []})


@contextlib.contextmanager
def _accused(faults: list[tuple[str, str]], number: int) -> Any:
    try:
        yield
    except MirageError as error:
        faults.append((SEEN, f"round {number}: {error}"))
