"""The problems of all sources that the settings name: generated, cut from images, or read from published data.

A source that provides its own auxiliary images and chains yields them with its problems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from mirage_core import benchmarks
from mirage_core.benchmarks import comt, jigsaw, mental_rotation, paper_folding, sat
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.custom.task_problems import task_problems
from mirage_core.benchmarks.generate import generated_problems
from mirage_core.benchmarks.io.hub_rows import published_rows
from mirage_core.benchmarks.vsp_folder import folder_problems
from mirage_core.config import PUBLIC_SECTIONS, CoMTData, ProblemSettings, PublicData, SATData
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem, Progress, ProgressEvent, ProvidedImage, Split

SourcedProblem = tuple[Problem, ProvidedImage | None]
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.05


def sourced_problems(settings: ProblemSettings, seed: int, progress: Progress) -> Iterator[SourcedProblem]:
    """Yield every problem of the settings, source by source, with the image that its data set provides.

    Raises DataError if a source cannot be read or has too few rows, or if two problems have one id.
    """
    seen: set[str] = set()
    for problem, provided in _all_sources(settings, seed, progress):
        if problem.id in seen:
            raise DataError(f"two problems have the id {problem.id}: {problem.benchmark} has the same row twice")
        seen.add(problem.id)
        yield problem, provided


def _all_sources(settings: ProblemSettings, seed: int, progress: Progress) -> Iterator[SourcedProblem]:
    plain: list[Iterator[Problem]] = [generated_problems(settings, seed, progress)]
    for puzzle, puzzles in (
        (mental_rotation.PUZZLE, settings.mental_rotation),
        (paper_folding.PUZZLE, settings.paper_folding),
    ):
        if puzzles:
            plain.append(puzzle.problems(puzzles, seed, settings.cell_px, progress))
    if settings.vsp_folder:
        plain.append(folder_problems(settings.vsp_folder))
    if settings.jigsaw:
        plain.append(jigsaw.jigsaw_problems(settings.jigsaw, seed, progress))
        plain.append(iter(jigsaw.load(settings.jigsaw.blink) if settings.jigsaw.blink else ()))
    if settings.sat:
        plain.append(_sat(settings.sat, progress))
    plain.append(public_problems(settings))
    task = benchmarks.use(settings)
    if settings.task and task:
        plain.append(task_problems(task, settings.task, seed, progress))
    for problem in chain.from_iterable(plain):
        yield problem, None
    if settings.comt:
        yield from _comt(settings.comt, seed)
    if settings.own:
        yield from ((row.problem, row.provided) for row in jsonl_data.rows_of(settings.own))


def _sat(data: SATData, progress: Progress) -> Iterator[Problem]:
    """Training rows in file order, a share of them (by digest) for validation; test rows in both option orders."""
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation}
    counts = dict.fromkeys(wanted, 0)
    share = data.validation / max(1, data.train + data.validation)
    rows = published_rows(data.source, split=data.train_split) if data.train + data.validation else iter(())
    for row in rows:
        if data.types and row.text("question_type") not in data.types:
            continue
        problem = next(sat.problems_of_row(row, "train"))
        split: Split = "validation" if _unit_hash(problem.id) < share else "train"
        if counts[split] < wanted[split]:
            counts[split] += 1
            yield problem if split == "train" else next(sat.problems_of_row(row, split))
        if counts == wanted:
            break
        if row.number % 500 == 0:
            progress(ProgressEvent(stage="problems", message=f"sat: {row.number} rows read"))
    _check_counts("sat", data.source, counts, wanted)
    test_rows = published_rows(data.source, split=data.test_split) if data.test != 0 else iter(())
    selected = (row for row in test_rows if not data.types or row.text("question_type") in data.types)
    for row in islice(selected, data.test):
        yield from sat.problems_of_row(row, "test")


def _comt(data: CoMTData, seed: int) -> Iterator[SourcedProblem]:
    """Rows of the selected types, ordered by digest: a fifth is for testing, a twentieth for validation.

    Training and validation take only rows with an image in their rationale.
    """
    rows = [row for row in comt.read(data.source) if row.problem.group in data.types]
    rows.sort(key=lambda row: _unit_hash(f"{seed}/{row.problem.id}"))
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation}
    counts: dict[Split, int] = {"train": 0, "validation": 0, "test": 0}
    for row in rows:
        split = _comt_split(row.problem.id)
        limit = wanted.get(split, data.test if data.test is not None else len(rows))
        if counts[split] < limit and (row.provided or split == "test"):
            counts[split] += 1
            yield replace(row.problem, split=split), row.provided
    _check_counts("comt", data.source, counts, wanted)


def _comt_split(identity: str) -> Split:
    """The split of a row, fixed by its id for all counts and seeds."""
    share = _unit_hash(identity)
    if share < _TEST_SHARE:
        return "test"
    return "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"


def _check_counts(name: str, source: str, counts: Mapping[Split, int], wanted: Mapping[Split, int]) -> None:
    missing = [f"{split} {counts[split]} of {count}" for split, count in wanted.items() if counts[split] < count]
    if missing:
        raise DataError(
            f"{name}: {source} holds too few rows: {', '.join(missing)}. "
            f"Ask for fewer in problems.{name}, or give more data"
        )


def _unit_hash(identity: str) -> float:
    """A number in [0, 1) that is a function of a text."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64


def public_problems(settings: ProblemSettings) -> Iterator[Problem]:
    """Yield the test problems of every public benchmark in the settings; DataError if one has none that are wanted."""
    for section in PUBLIC_SECTIONS:
        data = getattr(settings, section)
        if data is not None:
            yield from _selected(section.replace("_", "-"), section, data)


def _selected(name: str, section: str, data: PublicData) -> list[Problem]:
    """The problems of the selected groups, up to ``data.test`` questions, each in all its orders."""
    benchmark = benchmarks.get(name)
    unknown = sorted(set(data.groups) - set(benchmark.groups))
    if unknown:
        raise SettingsError(f"problems.{section}.groups names {unknown}; known: {', '.join(benchmark.groups)}")
    source = data.source or str(benchmark.source)
    problems = [problem for problem in benchmark.load(Path(source)) if not data.groups or problem.group in data.groups]
    if not problems:
        raise DataError(f"{name}: {source} holds no rows of {', '.join(data.groups) or 'any group'}")
    question_ids = {problem.id: _question_id(benchmark, problem) for problem in problems}
    selected = set(list(dict.fromkeys(question_ids.values()))[: data.test])
    return [problem for problem in problems if question_ids[problem.id] in selected]


def _question_id(benchmark: benchmarks.Benchmark, problem: Problem) -> str:
    parsed = benchmark.orders.parse_id(problem.id) if benchmark.orders else None
    return parsed[0] if parsed else problem.id
