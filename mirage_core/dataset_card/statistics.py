"""What a data set holds, counted example by example as it is written, so that memory does not grow with it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mirage_core.dataset_card.duplicates import Trace, trace_of
from mirage_core.types import TrainingExample

A_GROUP, AT_MOST = 2, 24


@dataclass(slots=True)
class Tally:
    """Counts by benchmark, group and split; writers, variants, styles; traces for finding duplicates; a sample."""

    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    writers: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    traces: list[Trace] = field(default_factory=list)
    _sample: dict[tuple[str, str], list[tuple[str, TrainingExample]]] = field(default_factory=lambda: defaultdict(list))

    def noted(self, examples: Iterable[TrainingExample]) -> Iterator[TrainingExample]:
        """The examples as they are, counted as they pass."""
        for example in examples:
            self.note(example)
            yield example

    def note(self, example: TrainingExample) -> None:
        """Count one example."""
        problem = example.problem
        self.groups[problem.benchmark, problem.group, str(problem.split)] += 1
        self.writers[example.chain.teacher] += 1
        self.variants[str(example.chain.variant)] += 1
        self.styles[example.auxiliary_image.style] += 1
        self.traces.append(trace_of(problem))
        kept = self._sample[problem.benchmark, problem.group]
        kept.append((hashlib.sha256(problem.id.encode()).hexdigest(), example))
        kept.sort(key=lambda one: one[0])
        del kept[A_GROUP:]

    @property
    def total(self) -> int:
        """How many examples there are."""
        return self.groups.total()

    @property
    def splits(self) -> dict[str, int]:
        """How many examples each split has."""
        found: Counter[str] = Counter()
        for (_, _, split), count in self.groups.items():
            found[split] += count
        return dict(sorted(found.items()))

    def sample(self) -> list[TrainingExample]:
        """Two examples of every benchmark and group, whatever the order they came in; at most ``AT_MOST``."""
        return [example for key in sorted(self._sample) for _, example in self._sample[key]][:AT_MOST]


def tallied(examples: Iterable[TrainingExample]) -> Tally:
    """The tally of examples that are at hand."""
    tally = Tally()
    for example in examples:
        tally.note(example)
    return tally
