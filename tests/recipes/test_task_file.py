"""Where a recipe's own task is found, and that its digest becomes part of the settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mirage_core import recipes
from mirage_core.errors import SettingsError


def recipe(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(f"extends: micro\n{text}")
    return path


def test_a_file_is_looked_for_beside_the_recipe_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(tmp_path / "mine", "problems: {task: {module: world.py}}")
    (tmp_path / "mine/world.py").write_text("x = 1")
    other = tmp_path / "other.yaml"
    other.write_text("extends: mine/mine.yaml\nproblems: {task: {train: 3}}")
    monkeypatch.chdir("/")

    for chosen in (path, other):
        task = recipes.load(chosen).problems.task
        assert task is not None
        assert task.module == str(tmp_path / "mine/world.py")
        assert task.sha256 == hashlib.sha256(b"x = 1").hexdigest()
    (tmp_path / "again.yaml").write_text(recipes.dump(recipes.load(path)))
    assert recipes.load(tmp_path / "again.yaml") == recipes.load(path)


def test_a_dotted_name_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").touch()
    (tmp_path / "house/world.py").write_text("x = 2")
    monkeypatch.syspath_prepend(tmp_path)

    task = recipes.load("micro", ["problems.task.module=house.world"]).problems.task

    assert task is not None
    assert (task.module, task.sha256) == ("house.world", hashlib.sha256(b"x = 2").hexdigest())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("gone.py", "which is no Python file seen from"),
        ("/", "which is no Python file"),
        ("no_such_package", "expected a module of an installed package, or a file: ./no_such_package.py"),
        ("no_such.package", "'no_such.package' cannot be found"),
        ("../world.txt", "no Python file"),
    ],
)
def test_a_task_that_is_not_there_is_told_before_anything_runs(module: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipes.load("micro", [f"problems.task.module={module}"])


def test_a_digest_that_the_recipe_holds_must_fit(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text("x = 1")
    path = recipe(tmp_path, f"problems: {{task: {{module: world.py, sha256: {'a' * 64}}}}}")
    with pytest.raises(SettingsError, match="has changed"):
        recipes.load(path)
