"""TensorBoard's event files: every figure, no step twice after a resume, and a clear word without the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.training.logging.run_log import tensorboard_writer
from mirage_core.training.sft.train import run_supervised
from tests.training.small_world import make_job


def job_of(inputs: Path, work: Path, boards: Path | None) -> Job:
    runtime = {"tensorboard": None if boards is None else str(boards)}
    job = make_job(inputs, work, "text", runtime=runtime, direct_sft={"steps": 3, "validation": {"every": 2}})
    return job.model_copy(update={"label": "direct-sft-1a2b"})


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_shows_its_curves_and_validations(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path / "work", tmp_path / "boards")
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    (folder,) = (tmp_path / "boards").iterdir()
    assert folder.name == "direct-sft-1a2b"
    found = shown(folder)
    assert [step for step, _ in found["training/loss"]] == [1, 2, 3]
    assert [step for step, _ in found["validation/loss"]] == [0, 2, 3]
    assert [step for step, _ in found["time/tokens_per_second"]] == [3]


def test_after_a_resume_no_step_is_shown_twice(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path / "work", tmp_path / "boards")
    for after, steps, value in ((0, range(1, 8), 1.0), (4, range(5, 10), 2.0)):  # killed after 7, goes on after 4
        with tensorboard_writer(job, after) as write:
            for step in steps:
                write(step, {"loss": value})
    found = shown(tmp_path / "boards" / "direct-sft-1a2b")["training/loss"]
    assert found == [(step, 1.0 if step <= 4 else 2.0) for step in range(1, 10)]


def test_a_run_begun_anew_shows_nothing_of_the_one_before(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path / "work", tmp_path / "boards")
    for value in (1.0, 2.0):
        with tensorboard_writer(job, 0) as write:
            write(0, {"validation/loss": value})
            write(1, {"loss": value})
    found = shown(tmp_path / "boards" / "direct-sft-1a2b")
    assert found == {"validation/loss": [(0, 2.0)], "training/loss": [(1, 2.0)]}


def test_only_process_0_writes_and_nobody_without_the_setting(inputs: Path, tmp_path: Path) -> None:
    for job, rank in ((job_of(inputs, tmp_path, tmp_path / "boards"), 1), (job_of(inputs, tmp_path, None), 0)):
        with as_process(ProcessContext.on_one_host(rank, 2)), tensorboard_writer(job, 0) as write:
            write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_every_process_says_what_to_do(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for rank in (0, 1):
        with (
            pytest.raises(SettingsError, match="pip install tensorboard"),
            as_process(ProcessContext.on_one_host(rank, 2)),
            tensorboard_writer(job_of(inputs, tmp_path, tmp_path / "boards"), 0),
        ):
            raise AssertionError("never here")
