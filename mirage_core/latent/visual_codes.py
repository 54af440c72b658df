"""Pictures as codes: an example keeps those of its auxiliary image, an output has their tokens in its text.

Codes are numbers of a codebook's entries. In an example they are numbers too, never text: texts with special tokens are
refused everywhere. Decoding writes the tokens as any other word, so that its text can be encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mirage_core.types import AuxiliaryImage, TrainingExample

CODES = "codes"
"""The key in ``AuxiliaryImage.details``: the numbers of its codes, in the order in which they are written."""
_RUN = re.compile(r"(?:<\|visual_(?:start|end|\d{1,9})\|>)+")
_CODE = re.compile(r"<\|visual_(\d+)\|>")


@dataclass(frozen=True, slots=True)
class CodeRun:
    """Codes that stand together in an output, and the characters from ``begin`` to before ``end`` that they take."""

    begin: int
    end: int
    codes: tuple[int, ...]


def codes_of(image: AuxiliaryImage) -> tuple[int, ...]:
    """Return the codes of an auxiliary image; none where it was not quantised."""
    return tuple(image.details.get(CODES, ()))


def with_codes(example: TrainingExample, codes: Sequence[int]) -> TrainingExample:
    """Return the example with the codes of its auxiliary image, and without the frames of its film."""
    image = example.auxiliary_image
    details = {**image.details, CODES: list(codes)}
    return replace(example, auxiliary_image=replace(image, details=details, frames=()))


def code_runs(output: str) -> Iterator[CodeRun]:
    """Yield the runs of visual tokens in an output, borders included, whether or not they are closed."""
    for run in _RUN.finditer(output):
        yield CodeRun(run.start(), run.end(), tuple(map(int, _CODE.findall(run.group()))))
