"""Where the golden cases are: ``--golden DIR``, or the repository's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.cases import Golden, case_names

OWN = Path(__file__).parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--golden DIR``, seen when tests/golden is named on the command line."""
    parser.addoption("--golden", type=Path, default=OWN, help="Folder of golden cases (default: the repository's own).")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case."""
    if "case" in metafunc.fixturenames:
        folder = metafunc.config.getoption("golden", default=OWN)
        names = case_names(folder)
        if not names:
            raise pytest.UsageError(f"{folder} holds no golden case (NAME.inputs.safetensors with its outputs)")
        metafunc.parametrize("case", names)


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    """The model and scalars that the cases share."""
    return Golden(request.config.getoption("golden", default=OWN))
