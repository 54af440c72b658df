"""Every parser that a stranger reaches, under mutated input: it is read, or refused by an error of this project."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest

from mirage_core.errors import InputError
from tests.soak.fuzz import TARGETS
from tests.soak.fuzz.target import Target, memory, run

SEED = 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_input_is_read_or_refused(target: Target) -> None:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="mirage-fuzz-", dir=memory()) as folder:
        warnings.simplefilter("ignore")
        tally = run(target, Path(folder), target.count, SEED)
    assert not tally.faults, "\n".join(f"{said}\n    {case}" for said, case in tally.kept)
    assert tally.cases == target.count and (tally.read > 0 or "errors" in target.name), tally.as_json()
    if "answers" not in target.name:  # an answer is never refused, it is unparsed
        assert sum(tally.refused.values()) > tally.cases / 50, tally.as_json()


def test_the_harness_notices_other_errors_halves_of_texts_and_long_messages(tmp_path: Path) -> None:
    def read(case: int) -> None:
        if case == 1:
            raise KeyError("a")
        raise InputError("\ud800" if case == 2 else "x" * 20_000)

    target = Target("broken", lambda folder: (lambda chance: chance.randint(1, 3), read))
    tally = run(target, tmp_path, 100, SEED)
    assert len(tally.faults) == 3 and sum(tally.faults.values()) == 100
    assert any(kind.startswith("KeyError at test_fuzz.py") for kind in tally.faults), tally.faults
