"""Against real servers of a real model: ``transformers serve`` and ours, with a tiny Qwen2.5-VL of random weights."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.errors import EndpointError
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.serving.process import server_process
from mirage_core.store import Store
from mirage_core.teacher import EndpointTeacher, make_teacher
from tests.teacher.conftest import Pairs, ignore_progress, teacher_runtime, teacher_settings

SMALL = ArchitectureSettings(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2, num_kv_heads=1)
PATIENCE_S = 180
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("serve")  # one server for all


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "model"
    built = build_base_model(ModelSettings(architecture=SMALL), 1)
    save_model(folder, built.backbone, built.processor, {"stage": "base"})
    return folder


@pytest.fixture(scope="module", params=["transformers", "mirage"])
def served(request: pytest.FixtureRequest, model: Path) -> Iterator[tuple[str, str]]:
    """The address of the server, and the name of its model."""
    if request.param == "transformers":
        with transformers_serve(model) as url:
            yield url, str(model)
        return
    command = [sys.executable, "-m", "flows.cli", "serve", str(model), "--port", "0"]
    with server_process(command, model.parent / "mirage-log", {**os.environ, "OMP_NUM_THREADS": "1"}) as server:
        yield server.url, model.name


@contextlib.contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.teacher.serve_child", str(model), str(port)]
    log_file = model.parent / "log"
    with log_file.open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_well(port):
            assert server.poll() is None and time.monotonic() < deadline, log_file.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait(30)


def is_well(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200
    return False


def test_a_random_model_is_asked_in_earnest_and_every_answer_is_rejected_with_its_reason(
    served: tuple[str, str], store: Store, pairs: Pairs
) -> None:
    url, model = served
    settings = teacher_settings(model=model, min_accepted=0.0, attempts=2, max_tokens=24)
    teacher = make_teacher(settings, teacher_runtime(url, timeout_s=120.0), store)
    assert isinstance(teacher, EndpointTeacher)
    result = teacher.teach(pairs[:4], "cot", ignore_progress)
    assert result.examples == []
    assert [(rejection.problem_id, rejection.attempt) for rejection in result.rejections] == [
        (problem.id, attempt) for problem, _ in pairs[:4] for attempt in (1, 2)
    ]
    assert {rejection.reason for rejection in result.rejections} <= {"cut", "place", "empty"}
    assert result.usage["answers"] == 8
    assert result.usage["answers_without_usage"] == 0
    # Two pictures a request were seen: the words alone are fewer tokens than were counted.
    assert result.usage["prompt_tokens"] > 8 * 500
    again = make_teacher(settings, teacher_runtime(url), store)
    assert isinstance(again, EndpointTeacher)
    assert again.teach(pairs[:4], "cot", ignore_progress).rejections == result.rejections


def test_a_model_that_the_server_does_not_have_is_one_clear_message(
    served: tuple[str, str], store: Store, pairs: Pairs
) -> None:
    url, _ = served
    teacher = make_teacher(teacher_settings(model="no/such-model"), teacher_runtime(url, tries=1), store)
    with pytest.raises(EndpointError, match=url.split("/")[2]):
        teacher.chain(*pairs[0], "cot")
