"""What the parent of a job does with checkpoints: one at a time, the newest of those that wait, no error lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mirage_core.distributed.checkpoint_uploads import CheckpointUploads


def folder(parent: Path, step: int) -> Path:
    made = parent / f"step-{step}"
    made.mkdir()
    return made


class Slow:
    """A store that takes as long as the test wants."""

    def __init__(self) -> None:
        self.uploaded: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0

    def __call__(self, step: int, path: Path) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.set()
        assert self.go_on.wait(60)
        assert path.is_dir()
        self.uploaded.append(step)
        self.at_once -= 1


def test_training_goes_on_meanwhile_and_only_the_newest_that_waits_follows(tmp_path: Path) -> None:
    store = Slow()
    uploads = CheckpointUploads(store, background=True)
    for step in (1, 2, 3):  # returns at once each time, though nothing gets through
        uploads.submit(step, folder(tmp_path, step))
    assert store.begun.wait(60) and store.uploaded == []
    store.go_on.set()
    uploads.finish(upload_pending=True)
    assert store.uploaded == [1, 3] and store.most_at_once == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_what_waits_is_left_when_the_work_is_done(tmp_path: Path) -> None:
    store = Slow()
    uploads = CheckpointUploads(store, background=True)
    for step in (1, 2):
        uploads.submit(step, folder(tmp_path, step))
    store.go_on.set()
    uploads.finish(upload_pending=False)
    assert store.uploaded == [1]


@pytest.mark.parametrize("kind", (ValueError, KeyboardInterrupt))
def test_an_error_of_the_background_is_raised_by_the_next_call(tmp_path: Path, kind: type[BaseException]) -> None:
    begun = threading.Event()

    def broken(step: int, path: Path) -> None:
        begun.set()
        raise kind("the disk is full")

    uploads = CheckpointUploads(broken, background=True)
    uploads.submit(1, folder(tmp_path, 1))
    assert begun.wait(60)
    with pytest.raises(kind, match="the disk is full"):
        uploads.finish(upload_pending=False)
    uploads.finish(upload_pending=False)  # said once


def test_without_a_background_each_is_kept_before_the_call_returns(tmp_path: Path) -> None:
    uploaded: list[int] = []
    uploads = CheckpointUploads(lambda step, path: uploaded.append(step), background=False)
    for step in (1, 2, 3):
        uploads.submit(step, folder(tmp_path, step))
        assert uploaded[-1] == step
    assert uploaded == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]
