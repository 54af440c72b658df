"""Several hosts, really: two network namespaces with an sshd each, one lost in the middle of a stage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.containers.hosts import walk


@pytest.mark.e2e
def test_a_run_that_loses_a_host_goes_on_with_the_other_and_ends_with_the_same_models(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.fail(
            "two hosts on one machine need root and openssh-server (apt-get install openssh-server)", pytrace=False
        )
    walk(tmp_path)
