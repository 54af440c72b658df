"""Whether another way to run a model gives the answers that its evaluation stored, problem by problem, to the token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mirage_core.errors import DataError
from mirage_core.types import Prediction, Scored

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Difference:
    """A problem that was answered in another way than stored; ``what`` names the first field that differs."""

    problem_id: str
    what: str
    stored: str
    found: str


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return ``count`` items evenly spread over a sequence, the first among them; all where there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def stored_answers(scored: Iterable[Scored]) -> dict[str, Prediction]:
    """Return the first sample's answer to every problem, by the problem's id."""
    return {prediction.problem_id: prediction for prediction, _ in scored if prediction.sample == 0}


def differences(stored: Mapping[str, Prediction], found: Iterable[Prediction]) -> list[Difference]:
    """Return the problems whose text, tokens, latents or end differ from the stored ones; labels of methods may.

    Raises:
        DataError: a problem has no stored answer.
    """
    different: list[Difference] = []
    for answer in found:
        known = stored.get(answer.problem_id)
        if known is None:
            raise DataError(
                f"the stored evaluation has no answer to {answer.problem_id}, so it is not of these problems: evaluate "
                "the model again"
            )
        if replace(answer, method=known.method, sample=known.sample) == known:
            continue
        what = next(
            name
            for name in ("output", "spans", "token_ids", "finished")
            if getattr(answer, name) != getattr(known, name)
        )
        different.append(Difference(known.problem_id, what, known.output, answer.output))
    return different
