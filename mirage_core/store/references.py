"""What refers to what in a store: from records and pointers to artifacts, and from artifacts to their inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ARTIFACT_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[0-9a-f]{20}")


def mentioned(value: Any) -> Iterator[str]:
    """Every artifact's path in a JSON value, wherever it stands."""
    if isinstance(value, str):
        if ARTIFACT_PATH.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from mentioned(name)
            yield from mentioned(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from mentioned(inner)


def reachable(roots: Iterable[str], inputs: Mapping[str, Iterable[str]]) -> set[str]:
    """The roots, and all that they were made from, directly or not."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(inputs.get(path, ()))
    return found
