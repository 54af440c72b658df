"""A wheel, installed away from the checkout: the command works from any folder, and no name of a user is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, which sees everything else that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    others = folder / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():  # linked one by one: no .pth of the checkout's is read
        if "mirage" not in entry.name:
            (others / entry.name).symlink_to(entry)
    (site / "others.pth").write_text(f"{others}\n")
    return folder / "env" / "bin" / "python"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"MIRAGE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MIRAGE_STORE")}
    command = [str(installed), *words]
    return subprocess.run(command, cwd=folder, env={**kept, **own}, capture_output=True, text=True, check=False)


def test_a_users_module_of_the_same_name_and_the_command_do_not_meet(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text("MINE = 1\n")
    seen = run(installed, tmp_path, "-c", "import flows, mirage_core; print(flows.MINE, mirage_core.__file__)")
    assert seen.stdout.startswith("1 ") and str(installed.parents[1]) in seen.stdout, seen.stderr
    none = run(installed, tmp_path, "-c", "import tasks")
    assert "No module named 'tasks'" in none.stderr
    planned = run(installed, tmp_path, "-m", "mirage_app", "run", "--recipe", "micro", "--direct", "--dry-run")
    assert planned.returncode == 0 and "will run  problems" in planned.stdout, planned.stderr
    beside = "from mirage_app import provide; provide(); from flows.display.expected import plan_command; "
    beside += "import subprocess; print(subprocess.run(plan_command('micro', (), 0.1)).returncode)"
    assert run(installed, tmp_path, "-c", beside).stdout.endswith("0\n")


@pytest.mark.e2e
def test_the_whole_pipeline_runs_from_a_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text("raise ImportError('the module of a user')\n")
    done = run(installed, tmp_path, "-m", "mirage_app", "run", "--recipe", "micro", "--direct")
    assert done.returncode == 0 and "report" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
