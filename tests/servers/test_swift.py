"""The S3 server that tests start: what is written stays, whatever is done to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.servers.swift import SwiftDidNotStart, SwiftServer


def test_what_was_written_survives_a_kill_and_a_restart_on_the_same_ports(tmp_path: Path) -> None:
    with SwiftServer(tmp_path) as server:
        bucket, url, client = server.bucket()[5:], server.url, server.client()
        client.put_object(Bucket=bucket, Key="a/b", Body=b"kept")
        server.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)
        server.restart()

        assert server.url == url
        assert client.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"kept"
        assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b"]


@pytest.mark.xdist_group("s3")
def test_the_guest_is_known_and_may_do_nothing(s3_server: SwiftServer) -> None:
    bucket = s3_server.bucket()[5:]

    with pytest.raises(ClientError, match="AccessDenied"):
        s3_server.client("guest").put_object(Bucket=bucket, Key="a", Body=b"")


@pytest.mark.e2e
def test_a_port_that_somebody_takes_meanwhile_is_changed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    from tests.servers import swift

    ports = swift._free_ports(4)
    ports_of_each = [ports, swift._free_ports(4)]
    monkeypatch.setattr(swift, "_free_ports", lambda count: ports_of_each.pop(0))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[1]))
        taken.listen()
        with SwiftServer(tmp_path) as server:
            server.bucket()

    assert not ports_of_each


def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.swift.COMMON", "[DEFAULT]\nbind_port = none\n")

    with pytest.raises(SwiftDidNotStart, match="swift-account-server ended with 1") as caught, SwiftServer(tmp_path):
        pass

    assert "No such file or directory: '/etc/swift/swift.conf'" in str(caught.value)


def test_no_key_of_the_caller_reaches_a_test() -> None:
    program = "import os, tests.conftest; print(sorted(n for n in os.environ if n.startswith('AWS_')))"
    environment = {"AWS_ACCESS_KEY_ID": "real", "AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "real", "PATH": "/usr/bin"}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert "ACCESS_KEY" not in done.stdout and "PROFILE" not in done.stdout and "TOKEN" not in done.stdout
