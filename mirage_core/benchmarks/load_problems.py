"""Every source of problems that the settings name: made here, cut from pictures, or read from published data.

A source that brings its own auxiliary pictures and chains gives them beside its problems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from mirage_core import benchmarks
from mirage_core.benchmarks import comt, jigsaw, sat, use
from mirage_core.benchmarks.custom import jsonl_data as own
from mirage_core.benchmarks.custom.task_problems import task_problems
from mirage_core.benchmarks.generate import generated_problems
from mirage_core.benchmarks.io.hub_rows import published_rows
from mirage_core.benchmarks.vsp_folder import folder_problems
from mirage_core.config import PUBLIC_SECTIONS, CoMTData, ProblemSettings, PublicData, SATData
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Given, Problem, Progress, ProgressEvent, Split


def public_problems(settings: ProblemSettings) -> Iterator[Problem]:
    """The test problems of every benchmark whose section is given; DataError when one holds none that are wanted."""
    for section in PUBLIC_SECTIONS:
        data = getattr(settings, section)
        if data is not None:
            yield from _chosen(section.replace("_", "-"), section, data)


def _chosen(name: str, section: str, data: PublicData) -> list[Problem]:
    """The problems of the wanted groups, up to the wanted number of questions, each in all its orders."""
    benchmark = benchmarks.get(name)
    unknown = sorted(set(data.groups) - set(benchmark.groups))
    if unknown:
        raise SettingsError(f"problems.{section}.groups names {unknown}; known: {', '.join(benchmark.groups)}")
    source = data.source or str(benchmark.source)
    found = [one for one in benchmark.load(Path(source)) if not data.groups or one.group in data.groups]
    if not found:
        raise DataError(f"{name}: {source} holds no rows of {', '.join(data.groups) or 'any group'}")
    asked = {problem.id: _question(benchmark, problem) for problem in found}
    kept = set(list(dict.fromkeys(asked.values()))[: data.test])
    return [problem for problem in found if asked[problem.id] in kept]


def _question(benchmark: benchmarks.Benchmark, problem: Problem) -> str:
    told = benchmark.orders.asked(problem.id) if benchmark.orders else None
    return told[0] if told else problem.id


Sourced = tuple[Problem, Given | None]
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.05


def sourced_problems(settings: ProblemSettings, seed: int, progress: Progress) -> Iterator[Sourced]:
    """Every problem of the settings, source by source, with what its data set gives.

    Raises DataError when a source cannot be read or holds too few rows, or when two problems have one id.
    """
    seen: set[str] = set()
    for problem, given in _every_source(settings, seed, progress):
        if problem.id in seen:
            raise DataError(f"two problems have the id {problem.id}: the same row stands twice in {problem.benchmark}")
        seen.add(problem.id)
        yield problem, given


def _every_source(settings: ProblemSettings, seed: int, progress: Progress) -> Iterator[Sourced]:
    without: list[Iterator[Problem]] = [generated_problems(settings, seed, progress)]
    if settings.vsp_folder:
        without.append(folder_problems(settings.vsp_folder))
    if settings.jigsaw:
        without.append(jigsaw.jigsaw_problems(settings.jigsaw, seed, progress))
        without.append(iter(jigsaw.load(settings.jigsaw.blink) if settings.jigsaw.blink else ()))
    if settings.sat:
        without.append(_sat(settings.sat, progress))
    without.append(public_problems(settings))
    task = use(settings)
    if settings.task and task:
        without.append(task_problems(task, settings.task, seed, progress))
    for problem in chain.from_iterable(without):
        yield problem, None
    if settings.comt:
        yield from _comt(settings.comt, seed)
    if settings.own:
        yield from ((row.problem, row.given) for row in own.rows_of(settings.own))


def _sat(data: SATData, progress: Progress) -> Iterator[Problem]:
    """Training rows in the order of the file, every tenth or so to validation by digest; test rows in both orders."""
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation}
    counts = dict.fromkeys(wanted, 0)
    share = data.validation / max(1, data.train + data.validation)
    rows = published_rows(data.source, split=data.train_split) if data.train + data.validation else iter(())
    for row in rows:
        if data.types and row.text("question_type") not in data.types:
            continue
        problem = next(sat.problems_of_row(row, "train"))
        split: Split = "validation" if _share(problem.id) < share else "train"
        if counts[split] < wanted[split]:
            counts[split] += 1
            yield problem if split == "train" else next(sat.problems_of_row(row, split))
        if counts == wanted:
            break
        if row.number % 500 == 0:
            progress(ProgressEvent(stage="problems", message=f"sat: {row.number} rows read"))
    _enough("sat", data.source, counts, wanted)
    tested = published_rows(data.source, split=data.test_split) if data.test != 0 else iter(())
    kept = (row for row in tested if not data.types or row.text("question_type") in data.types)
    for row in islice(kept, data.test):
        yield from sat.problems_of_row(row, "test")


def _comt(data: CoMTData, seed: int) -> Iterator[Sourced]:
    """Rows of the types in the order of a digest: a fifth is for testing, and a twentieth for validation.

    Training and validation take only rows with a picture in their rationale.
    """
    rows = [row for row in comt.read(Path(data.source).expanduser()) if row.problem.group in data.types]
    rows.sort(key=lambda row: _share(f"{seed}/{row.problem.id}"))
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation}
    counts: dict[Split, int] = {"train": 0, "validation": 0, "test": 0}
    for row in rows:
        split = _comt_split(row.problem.id)
        limit = wanted.get(split, data.test if data.test is not None else len(rows))
        if counts[split] < limit and (row.given or split == "test"):
            counts[split] += 1
            yield replace(row.problem, split=split), row.given
    _enough("comt", data.source, counts, wanted)


def _comt_split(identity: str) -> Split:
    """The split of a row: fixed by its id, whatever the counts and seeds."""
    share = _share(identity)
    if share < _TEST_SHARE:
        return "test"
    return "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"


def _enough(name: str, source: str, counts: Mapping[Split, int], wanted: Mapping[Split, int]) -> None:
    missing = [f"{split} {counts[split]} of {count}" for split, count in wanted.items() if counts[split] < count]
    if missing:
        raise DataError(
            f"{name}: {source} holds too few rows: {', '.join(missing)}. "
            f"Ask for fewer in problems.{name}, or give more data"
        )


def _share(identity: str) -> float:
    """A number in [0, 1) fixed by a text."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
