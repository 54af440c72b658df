"""Every change that ``make mutants`` makes is one line of today's code, with tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_one_place_and_its_tests_exist(mutant: Mutant) -> None:
    assert (ROOT / "mirage_core" / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert mutant.tests and all((ROOT / "tests" / name).is_file() for name in mutant.tests)


def test_there_are_forty_and_each_is_another() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS) >= 40
