"""Statistics of a data set, counted while its examples are written, so that memory does not grow with it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mirage_core.dataset_card.duplicates import ProblemKey, problem_key
from mirage_core.types import TrainingExample

SAMPLES_PER_GROUP, MAX_SAMPLES = 2, 24


@dataclass(slots=True)
class Tally:
    """Counts by benchmark, group and split; writers, variants, styles; keys to find duplicates; a sample."""

    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    writers: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    keys: list[ProblemKey] = field(default_factory=list)
    _sample: dict[tuple[str, str], list[tuple[str, TrainingExample]]] = field(default_factory=lambda: defaultdict(list))

    def count_all(self, examples: Iterable[TrainingExample]) -> Iterator[TrainingExample]:
        """Yield the examples unchanged and count them."""
        for example in examples:
            self.count(example)
            yield example

    def count(self, example: TrainingExample) -> None:
        """Count one example."""
        problem = example.problem
        self.groups[problem.benchmark, problem.group, str(problem.split)] += 1
        self.writers[example.chain.teacher] += 1
        self.variants[str(example.chain.variant)] += 1
        self.styles[example.auxiliary_image.style] += 1
        self.keys.append(problem_key(problem))
        samples = self._sample[problem.benchmark, problem.group]
        samples.append((hashlib.sha256(problem.id.encode()).hexdigest(), example))
        samples.sort(key=lambda entry: entry[0])
        del samples[SAMPLES_PER_GROUP:]

    @property
    def total(self) -> int:
        """The number of examples."""
        return self.groups.total()

    @property
    def splits(self) -> dict[str, int]:
        """The number of examples of each split."""
        counts: Counter[str] = Counter()
        for (_, _, split), count in self.groups.items():
            counts[split] += count
        return dict(sorted(counts.items()))

    def sample(self) -> list[TrainingExample]:
        """Return two examples of every benchmark and group, independent of their order; at most ``MAX_SAMPLES``."""
        return [example for key in sorted(self._sample) for _, example in self._sample[key]][:MAX_SAMPLES]


def tally_of(examples: Iterable[TrainingExample]) -> Tally:
    """Return the tally of the examples."""
    tally = Tally()
    for example in examples:
        tally.count(example)
    return tally
