"""A deployment on S3 with nothing faked: server, worker, training processes, a SIGKILL, keys from a Prefect block."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from deployments import background
from tasks import credentials
from tests.flows.traces import all_the_api_shows, assert_nowhere, files, objects, secrets
from tests.servers.stack import LiveStack
from tests.servers.swift import SwiftServer

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

# Long enough in stage 2 to be killed in its middle, between two checkpoints.
OVERRIDES = [
    "relaxation.steps=240",
    "runtime.checkpoint_every=40",
    "evaluation.methods=[stage-2]",
    "problems.vsp_reasoning.test_per_level=2",
    "problems.vsp_planning.test_per_level=2",
]
PATIENCE_S = 900
BLOCK = "keys-of-the-real-pipeline"


class Killer(threading.Thread):
    """Waits until a checkpoint of stage 2 is complete on S3, then kills one of its training processes."""

    def __init__(self, stack: LiveStack, server: SwiftServer, bucket: str) -> None:
        super().__init__(daemon=True)
        self._stack, self._client, self._bucket = stack, server.client(), bucket.removeprefix("s3://")
        self.killed: int | None = None
        self.over = threading.Event()

    def run(self) -> None:
        while self.killed is None and not self.over.is_set():
            workers = [item for item in self._training() if "mirage-relaxation" in " ".join(item.cmdline())]
            if workers and self._checkpoint():
                self.killed = workers[-1].pid
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.1)

    def _checkpoint(self) -> bool:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix="pipeline/checkpoints/").get("Contents", [])
        return any(item["Key"].endswith("/manifest.json") for item in listed)

    def _training(self) -> Iterator[psutil.Process]:
        worker = background.read_pid_file(self._stack.stack.worker_file)
        for child in psutil.Process(worker.pid).children(recursive=True) if worker else []:
            try:
                if "mirage_core.pipeline.worker" in " ".join(child.cmdline()):
                    yield child
            except psutil.NoSuchProcess:
                continue


def test_a_training_that_is_killed_resumes_from_its_checkpoint_on_s3_and_no_key_is_left_anywhere(
    live_stack: LiveStack, s3_server: SwiftServer, capfd: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    bucket = s3_server.bucket()
    with temporary_settings({PREFECT_API_URL: live_stack.api}):
        credentials.save(BLOCK, s3_server.environment())
    before = set(files(live_stack.stack.home))
    killer = Killer(live_stack, s3_server, bucket)
    killer.start()
    environment = {"MIRAGE_STORE": f"{bucket}/pipeline", "MIRAGE_S3_BLOCK": BLOCK}
    run = live_stack.run("mirage/full-pipeline", {"recipe": "micro", "overrides": OVERRIDES}, environment)

    ended = live_stack.wait(run, patience_s=PATIENCE_S)
    killer.over.set()

    logs = live_stack.logs(run)
    assert ended["type"] == "COMPLETED", "\n".join(logs[-30:])
    assert killer.killed is not None, "stage 2 ended before it could be killed"
    assert any("resumes from the checkpoint of step" in line for line in logs)
    there = objects(s3_server, bucket)
    sorts = {key.split("/")[1] for key in there}
    assert {"problems", "examples", "model", "evaluation", "report", "runs"} <= sorts
    assert "checkpoints" not in sorts, "a finished training leaves no checkpoint behind"
    assert "results" not in sorts, "Prefect keeps no result"
    new = [path for path in files(live_stack.stack.home) if path not in before]
    kept_here = [path for path in new if "storage" in path.relative_to(live_stack.stack.home).parts]
    assert not kept_here, "Prefect's own result storage"
    assert not [path for path in new if path.is_relative_to(live_stack.store)]

    api = all_the_api_shows(live_stack.post, live_stack.get)
    assert bucket in api["flow_runs"] and BLOCK in api["block_documents"]
    output = capfd.readouterr()
    local_files = {str(path): path.read_bytes() for path in files(live_stack.stack.home)}
    assert_nowhere(secrets(s3_server), {**api, **there, **local_files, "output": output.out + output.err})
