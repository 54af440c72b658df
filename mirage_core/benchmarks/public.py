"""The published benchmarks that a recipe's settings add to its test problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mirage_core import benchmarks
from mirage_core.config import PUBLIC_SECTIONS, ProblemSettings, PublicData
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem


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
