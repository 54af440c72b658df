"""Bad input ends in one clear line, exit status 1 or 2, soon, in little memory, and never in a traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import cli
from tests.flows.bad_inputs import BAD, Bad

SECONDS, GIGABYTES = 5.0, 2.0
PROCESSES = BAD[:: len(BAD) // 15]
"""These run as processes of their own, under limits."""


def written(bad: Bad, folder: Path) -> None:
    """Write the files of an input."""
    for name, data in bad.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def fault(bad: Bad, status: object, said: str) -> str | None:
    """What is wrong with how a command ended; None where it ended as it should."""
    first = said.partition("error:")[2].strip() if "error:" in said else said
    lines = [line for line in first.splitlines() if line.strip()]
    if status not in (1, 2) or "Traceback" in said or not lines:
        return f"status {status}"
    if bad.expected not in " ".join(said.lower().split()):
        return f"it does not say {bad.expected!r}"
    return "it is long" if len(lines) > 12 or len(first) > 3_000 else None


def test_there_are_three_hundred() -> None:
    assert len(BAD) >= 300 and len({(bad.words, tuple(bad.files.items())) for bad in BAD}) == len(BAD)


@pytest.mark.parametrize("part", range(10))
def test_bad_input_is_refused_in_one_clear_line(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    wrong = []
    for number, bad in enumerate(BAD[part::10]):
        folder = tmp_path / str(number)
        folder.mkdir()
        written(bad, folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["mirage", *bad.words])
        began = time.process_time()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        took = time.process_time() - began
        found = fault(bad, ended.value.code, said) or (f"{took:.1f} s" if took > SECONDS and number else None)
        if found:
            wrong.append(
                f"{' '.join(bad.words)!r:.120} {[*bad.files.values()][:1]!r:.80}: {found}: {said.strip()!r:.300}"
            )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("bad", PROCESSES, ids=lambda bad: " ".join(bad.words)[:60])
def test_bad_input_as_a_process_ends_soon_in_little_memory(bad: Bad, tmp_path: Path) -> None:
    written(bad, tmp_path)
    own = {"MIRAGE_STORE": str(tmp_path / "store"), "MIRAGE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    words = [word.encode("utf-8", "surrogateescape") for word in bad.words]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=tmp_path,
        env={**os.environ, **own, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (30, 30)),
    )
    said = process.stderr.read().decode()  # type: ignore[union-attr]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()  # type: ignore[union-attr]
    assert fault(bad, process.returncode, said) is None, said
    assert used.ru_utime + used.ru_stime < SECONDS * 2, used  # imports included; twice for a machine that is shared
    assert used.ru_maxrss / 2**20 < GIGABYTES, used
