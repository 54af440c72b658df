"""``runtime.portable_math`` and ``mirage bench arithmetic``: the same bits whatever kernels libraries would choose."""

from __future__ import annotations

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from bench import arithmetic
from bench.arithmetic import HERE, measure
from flows.cli import app
from mirage_core.distributed.arithmetic import PORTABLE, arithmetic_of, use_portable_math
from mirage_core.errors import InputError, MirageError, SettingsError


def test_portable_weights_are_the_same_whatever_kernels_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (portable,) = measure(cases=["portable"], steps=1, rounds=0)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("MKL_CBWR", "AVX")
    assert measure(cases=["portable"], steps=1, rounds=0) == [portable]
    assert portable.arithmetic == "CPU, AVX2, portable"


def test_the_command_prints_the_rows_of_every_cpu_and_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    class Counted(arithmetic.Trainings):
        def __init__(self, *_: object) -> None:
            pass

        def train(self, cpu: str, case: str, steps: int) -> arithmetic.Trained:
            asked.append((cpu, case, steps))
            per_step = 2.0 if case == "portable" else 1.0
            return arithmetic.Trained(10 + per_step * steps, {"film": case, "text": cpu}, case)

    monkeypatch.setattr(arithmetic, "Trainings", Counted)
    monkeypatch.setattr("shutil.which", lambda name: name)
    result = CliRunner().invoke(app, ["bench", "arithmetic", "--emulate", "EPYC, Haswell", "--rounds", "1", "--json"])
    rows = json.loads(result.stdout)
    assert [(row["cpu"], row["case"]) for row in rows] == [
        (HERE, "native"),
        (HERE, "portable"),
        ("EPYC", "portable"),
        ("Haswell", "portable"),
    ]
    assert [row["ratio"] for row in rows] == [None, 2.0, None, None]
    assert set(asked) == {(row["cpu"], row["case"], 2) for row in rows} | {
        (HERE, case, steps) for case in ("native", "portable") for steps in (2, 42)
    }


def test_without_the_emulator_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"qemu-x86_64 was not found, which emulates EPYC; .* apt install qemu-user"):
        measure(["EPYC"])
    with pytest.raises(InputError, match="--steps is 0"):
        measure(steps=0)


def test_a_training_that_fails_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MirageError, match=r"film failed on this one \(portable\)"):
        measure(cases=["portable"], steps=1, rounds=0)


def test_portable_math_needs_avx2_and_says_what_was_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(SettingsError, match="torch computes with DEFAULT here; expected a CPU with AVX2"):
        use_portable_math()
    assert os.environ.items() >= PORTABLE.items()
    assert arithmetic_of(torch.device("cpu"), portable=False) == "CPU, DEFAULT"
