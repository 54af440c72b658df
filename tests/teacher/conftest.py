"""A few problems with their images, settings of an endpoint teacher, and a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import AuxiliaryImageSettings, BenchmarkData, ProblemSettings, TeacherRuntime, TeacherSettings
from mirage_core.store import Store
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import AuxiliaryImage, Problem

DATA = BenchmarkData(train_levels=(3,), train=6, validation=0, test_per_level=0)
Pairs = list[tuple[Problem, AuxiliaryImage]]


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Twelve problems, planning and reasoning, with their images."""
    problems = generate_problems(ProblemSettings(vsp_planning=DATA, vsp_reasoning=DATA), 3, ignore_progress)
    return list(
        zip(problems, draw_auxiliary_images(problems, AuxiliaryImageSettings(), 64, 3, ignore_progress), strict=True)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store", cache=tmp_path / "cache")


def teacher_settings(**changes: Any) -> TeacherSettings:
    """Settings of an endpoint teacher."""
    return TeacherSettings(**{"kind": "endpoint", "variant": "cot", "model": "tiny-teacher", **changes})


def teacher_runtime(url: str, **changes: Any) -> TeacherRuntime:
    """Runtime settings for a test's server, without long waits."""
    quick = {"backoff_s": 0.0, "timeout_s": 20.0, "connect_timeout_s": 5.0, "concurrency": 3, "tries": 3}
    return TeacherRuntime(**{"base_url": url, **quick, **changes})


def ignore_progress(event: object) -> None:
    """Ignore progress."""
