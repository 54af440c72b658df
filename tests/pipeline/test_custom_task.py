"""A custom task in the stages: what its file changes, and that processes of all kinds know it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from mirage_core import benchmarks
from mirage_core.config import Settings
from mirage_core.errors import SettingsError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.shards import in_processes, in_shards
from mirage_core.pipeline.stage import run_stage
from mirage_core.pipeline.stages.report import report_identity
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import Artifact
from tests.pipeline.fakes import Events

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins in a process that knows no task."""
    monkeypatch.setattr(benchmarks, "_TASKS", {})


def recipe(folder: Path, *sets: str) -> Settings:
    """The documentation's recipe, with its task in a folder."""
    folder.mkdir(exist_ok=True)
    for name in ("turning.py", "turning.yaml"):
        if not (folder / name).exists():
            shutil.copy(EXAMPLES / name, folder)
    return load(folder / "turning.yaml", sets)


def problems(settings: Settings, store: Store) -> Artifact:
    return run_stage(STAGES["problems"], settings, {}, store, Events()).artifact


def test_the_same_task_elsewhere_is_the_same_and_another_scorer_is_another_data_set(
    store: Store, tmp_path: Path
) -> None:
    here, there = recipe(tmp_path / "here"), recipe(tmp_path / "there")
    assert report_identity(here) == report_identity(there)
    first = problems(here, store)
    assert problems(there, store) == first

    file = tmp_path / "there/turning.py"
    file.write_text(file.read_text().replace("the number in the box", "another rule"))
    second = problems(recipe(tmp_path / "there"), store)

    tables = [(store.fetch(artifact) / "problems.parquet").read_bytes() for artifact in (first, second)]
    assert tables[0] == tables[1]
    assert first.digest != second.digest, "an evaluation of the second would be taken from the first"


def test_a_changed_file_ends_the_run_at_its_next_stage(store: Store, tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    artifact = problems(settings, store)
    (tmp_path / "turning.py").write_text("")

    with pytest.raises(SettingsError, match=r"turning\.py has changed"):
        run_stage(STAGES["auxiliary-images"], settings, {"problems": artifact}, store, Events())


def test_shards_in_other_processes_know_the_task(store: Store, tmp_path: Path) -> None:
    settings = recipe(tmp_path, "runtime.shards=2")
    artifact = problems(settings, store)
    whole = run_stage(STAGES["auxiliary-images"], settings, {"problems": artifact}, store, Events()).artifact
    store.remove(whole)

    reopen = partial(Store.open, store.url, store.cache)
    stage, inputs = in_shards(STAGES["auxiliary-images"], settings, in_processes(reopen)), {"problems": artifact}
    cut = run_stage(stage, settings, inputs, store, Events()).artifact

    assert cut == whole
