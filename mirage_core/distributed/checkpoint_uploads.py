"""What the parent of a job does with its checkpoints: hand each on, the newest first, while the processes train on."""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

OnCheckpoint = Callable[[int, Path], None]


class Uploads:
    """Hands checkpoints to ``keep``, one at a time, and deletes those a newer one has replaced.

    In the background where asked for: then ``keep`` runs in a thread, what is offered meanwhile waits (the newest
    alone), and its error is raised by the next call.
    """

    def __init__(self, keep: OnCheckpoint, *, background: bool) -> None:
        self._keep, self._background = keep, background
        self._waiting: tuple[int, Path] | None = None
        self._offered: list[Path] = []
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def offer(self, step: int, folder: Path) -> None:
        """A checkpoint is complete on the disk."""
        self._waiting = (step, folder)
        self._offered.append(folder)
        self.look()

    def look(self) -> None:
        """Start with what waits, unless something is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._join()
        if self._waiting is None:
            return
        (step, folder), self._waiting = self._waiting, None
        if not self._background:
            self._hand_on(step, folder)
            return
        run = contextvars.copy_context().run  # so that who logs in there is known
        self._thread = threading.Thread(target=run, args=(self._guarded, step, folder), name="uploads", daemon=True)
        self._thread.start()

    def settle(self, *, newest: bool) -> None:
        """Return when nothing is under way; with ``newest`` what waits is handed on first."""
        self._join()
        if newest:
            self.look()
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _guarded(self, step: int, folder: Path) -> None:
        try:
            self._hand_on(step, folder)
        except BaseException as error:
            self._problem = error

    def _hand_on(self, step: int, folder: Path) -> None:
        self._keep(step, folder)
        place = self._offered.index(folder)
        for replaced in self._offered[:place]:
            shutil.rmtree(replaced, ignore_errors=True)
        del self._offered[:place]
