"""A model folder of other authors, and a benchmark's rows, are diagnosed without a run that made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from flows.commands.diagnose import diagnose
from flows.model_folders import is_model_folder, stored_model, stored_problems
from mirage_core.errors import InputError
from mirage_core.store import Store
from mirage_core.store.records import load_problems
from tests.golden.cases import Golden
from tests.golden.lvr_cases import LvrGolden
from tests.golden.test_other_authors import OWN, lvr_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LVR, as its authors leave it."""
    return lvr_folder(tmp_path_factory.mktemp("released") / "LVR", LvrGolden(OWN / "lvr", Golden(OWN)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    Image.new("RGB", (56, 56), "white").save(tmp_path / "a.png")
    line = {"question": "What colour is it?", "images": ["a.png"], "answer": "white", "split": "test"}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**line, "id": f"own-{number}"}) + "\n" for number in range(3)))
    return file


def test_a_folder_becomes_a_model_that_tells_how_it_is_used(store: Store, folder: Path) -> None:
    assert is_model_folder(str(folder)) and not is_model_folder("model/0123") and not is_model_folder(None)
    artifact = stored_model(store, str(folder), None)
    about = store.manifest(artifact).about
    assert about["stage"] == "lvr"
    assert about["settings"]["latent"]["end"] == "open"
    assert about["settings"]["prompt"]["form"] == "benchmark"
    assert stored_model(store, str(folder), None) == artifact
    assert store.verify(artifact) == []


def test_a_folder_that_says_nothing_needs_a_method(store: Store, folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"does not tell which method made it .*--method stage-2"):
        stored_model(store, str(plain), None)
    assert store.manifest(stored_model(store, str(plain), "stage-2")).about["stage"] == "relaxation"


def test_rows_become_problems_once(store: Store, rows: Path) -> None:
    artifact = stored_problems(store, "own", rows)
    assert [problem.id for problem in load_problems(store.fetch(artifact))] == ["own-0", "own-1", "own-2"]
    assert stored_problems(store, "own", rows) == artifact
    with pytest.raises(InputError, match="--benchmark own has no published source: give its rows with --data"):
        stored_problems(store, "own", None)


def test_the_command_measures_it_on_the_rows(
    store: Store, folder: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diagnose(
        str(folder), "tiny", ["analysis.instances=3", "runtime.processes=1", "evaluation.max_new_tokens=4"],
        None, None, "interventions", store.url, benchmark="own", data=rows, direct=True, as_json=True, open_page=False,
    )  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"]["headline"] == "Neither edge was measured."  # random weights say no span
    kinds = [artifact.kind for artifact in store.list()]
    assert {"model", "problems", "collected", "measure", "diagnosis"} <= set(kinds)
