"""Uploads of a job's checkpoints in its parent process: one at a time, the newest first, while training goes on."""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

OnCheckpoint = Callable[[int, Path], None]
"""Called with the step and the folder of a complete checkpoint."""


class CheckpointUploads:
    """Passes checkpoints to ``on_checkpoint``, one at a time, and deletes those that a newer one has replaced.

    With ``background`` the call runs in a thread; of the checkpoints submitted meanwhile only the newest waits, and an
    error of the call is raised by the next method called here.
    """

    def __init__(self, on_checkpoint: OnCheckpoint, *, background: bool) -> None:
        self._on_checkpoint, self._background = on_checkpoint, background
        self._pending: tuple[int, Path] | None = None
        self._submitted: list[Path] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, step: int, folder: Path) -> None:
        """Take a checkpoint that is complete on the disk."""
        self._pending = (step, folder)
        self._submitted.append(folder)
        self.start_next()

    def start_next(self) -> None:
        """Start the pending upload, unless one is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._join()
        if self._pending is None:
            return
        (step, folder), self._pending = self._pending, None
        if not self._background:
            self._upload(step, folder)
            return
        run = contextvars.copy_context().run  # so that the thread's log lines belong to the same run
        self._thread = threading.Thread(target=run, args=(self._upload_guarded, step, folder), name="uploads")
        self._thread.daemon = True
        self._thread.start()

    def finish(self, *, upload_pending: bool) -> None:
        """Return when nothing is under way; with ``upload_pending`` the pending checkpoint is uploaded first."""
        self._join()
        if upload_pending:
            self.start_next()
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _upload_guarded(self, step: int, folder: Path) -> None:
        try:
            self._upload(step, folder)
        except BaseException as error:
            self._error = error

    def _upload(self, step: int, folder: Path) -> None:
        self._on_checkpoint(step, folder)
        index = self._submitted.index(folder)
        for replaced in self._submitted[:index]:
            shutil.rmtree(replaced, ignore_errors=True)
        del self._submitted[:index]
