"""A real training that is asked to end: it saves, says so, and goes on exactly, in another number of processes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from mirage_core.distributed.context import catch_sigterm
from mirage_core.distributed.launch import run_job
from mirage_core.errors import TrainingInterrupted
from mirage_core.types import ProgressEvent
from tests.forked import forked_jobs
from tests.training.small_world import make_job
from tests.training.test_loop import curve, run_here

LONG = {"grounding": {"steps": 30}}


def test_sigterm_to_one_process_saves_in_all_and_another_number_of_processes_goes_on(
    inputs: Path, tmp_path: Path
) -> None:
    two = {"runtime": {"processes": 2, "checkpoint_every": 1000}}
    saved_steps: list[int] = []
    asked: list[int] = []

    def ask(event: ProgressEvent) -> None:
        if event.step and not asked:  # the last process alone: the others learn it from that one
            asked.append(event.step)
            os.kill(processes[-1].pid, signal.SIGTERM)

    def keep(step: int, folder: Path) -> None:
        saved_steps.append(step)
        shutil.copytree(folder, tmp_path / "checkpoint")

    with forked_jobs() as processes, pytest.raises(TrainingInterrupted) as caught:
        run_job(make_job(inputs, tmp_path / "first", "grounding", **LONG, **two), progress=ask, on_checkpoint=keep)
    assert len(saved_steps) == 1 and asked[0] <= saved_steps[0] < 30
    assert f"grounding was interrupted at step {saved_steps[0]} of 30, and saved there" in str(caught.value)
    assert caught.value.transient
    assert sorted(file.name for file in (tmp_path / "checkpoint").glob("shard-*")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    run_here(make_job(inputs, tmp_path / "again", "grounding", tmp_path / "checkpoint", **LONG))
    run_here(make_job(inputs, tmp_path / "whole", "grounding", **LONG))
    for name in ("loss", "gradient_norm"):
        expected, again = (curve(tmp_path / run / "output", name) for run in ("whole", "again"))
        assert len(again) == 30 and again == pytest.approx(expected, rel=1e-3)


def test_sigterm_is_caught_inside_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with catch_sigterm() as stop_request:
        assert not stop_request
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_request
    assert signal.getsignal(signal.SIGTERM) == before
