"""Stages that many walks share: the first one runs it, the others wait and take the same artifact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.stages.registry import get_stage
from mirage_core.stages.stage import stage_fingerprint
from mirage_core.types import Artifact

Do = Callable[[str, Mapping[str, Any], Settings, Mapping[str, Artifact]], tuple[Artifact, bool]]
"""Runs one stage: its name, parameters, settings and inputs; gives its artifact, and whether it was there already."""


class SharedStages:
    """What the walks of this process have made, by fingerprint; safe in threads."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self._made: dict[str, Future[tuple[Artifact, bool]]] = {}
        self._lock = threading.Lock()

    def run(
        self, name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        """A stage's artifact, and whether it was there already: in the store, or because another walk made it.

        A stage that failed fails alike for every walk that needs it, without being tried again; what was found
        damaged or missing is made again by the walk that comes next.
        """
        key = stage_fingerprint(get_stage(name), settings, inputs, params)
        with self._lock:
            own = key not in self._made
            future = self._made.setdefault(key, Future())
        if not own:
            artifact, _ = future.result()
            return artifact, True
        try:
            future.set_result(self._do(name, params, settings, inputs))
        except BaseException as problem:
            if isinstance(problem, ArtifactDamaged | ArtifactMissing) or not isinstance(problem, Exception):
                self._forget_key(key)
            future.set_exception(problem)
            raise
        return future.result()

    def forget(self, lost: Sequence[str]) -> None:
        """Make these artifacts (by path) again when somebody needs them next."""
        with self._lock:
            for key, future in list(self._made.items()):
                done = future.done() and future.exception() is None
                if done and future.result()[0].path in lost:
                    del self._made[key]

    def _forget_key(self, key: str) -> None:
        with self._lock:
            del self._made[key]
