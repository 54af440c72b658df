"""A store on a real S3 server (OpenStack Swift): how it is reached, and what its refusals read like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import ArtifactError, SettingsError, StoreUnavailable
from mirage_core.store import Store
from mirage_core.store.backends.errors import store_error
from tests.servers.swift import SwiftServer

pytestmark = pytest.mark.xdist_group("s3")  # one server for all

FINGERPRINT = "a" * 64


@pytest.fixture
def bucket(s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket that this process may use."""
    s3_server.use(monkeypatch)
    return s3_server.bucket()


def actions(url: str, cache: Path) -> dict[str, Callable[[], Any]]:
    """What a run does first with a store, by what S3 is asked for."""
    store = Store.open(url, cache=cache)
    return {
        "write": store.check_writable,
        "list": store.list,
        "read": lambda: store.find("model", FINGERPRINT),
    }


def messages_of(url: str, cache: Path, kind: type[ArtifactError] = ArtifactError) -> dict[str, str]:
    """What each action says when it is refused; every message is one line that names the store."""
    messages = {}
    for name, action in actions(url, cache).items():
        with pytest.raises(kind) as caught:
            action()
        messages[name] = str(caught.value)
        assert url in messages[name]
        assert "\n" not in messages[name]
        assert caught.value.transient is (kind is StoreUnavailable)
    return messages


def test_a_good_store_does_all_of_it(bucket: str, tmp_path: Path) -> None:
    for action in actions(f"{bucket}/prefix", tmp_path).values():
        action()


def test_what_another_client_has_just_written_is_seen(bucket: str, tmp_path: Path, s3_server: SwiftServer) -> None:
    store = Store.open(f"{bucket}/prefix", cache=tmp_path)
    assert store.names("runs/") == []

    s3_server.client().put_object(Bucket=bucket[5:], Key="prefix/runs/one.json", Body=b"[1]")

    assert store.names("runs/") == ["runs/one.json"]


def test_an_endpoint_of_its_own_is_spoken_to_in_path_style(
    bucket: str, tmp_path: Path, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, and not by address: then the bucket would become a part of the host's name in the other style."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url.replace("127.0.0.1", "localhost"))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()

    Store.open(f"{bucket}/prefix", cache=tmp_path).check_writable()


def test_a_wrong_secret_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-wrong-secret")

    messages = messages_of(f"{bucket}/prefix", tmp_path)

    for name in ("write", "list"):
        assert "the access key or its secret is wrong. Check AWS_ACCESS_KEY_ID and AWS_SECRET" in messages[name]
    assert "a wrong key, no right to the bucket, or a clock that is minutes off" in messages["read"]
    assert "canary" not in "".join(messages.values())


def test_a_wrong_key_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mirage:canary")

    messages = messages_of(f"{bucket}/prefix", tmp_path)

    assert "the access key or its secret is wrong" in messages["write"]
    assert "canary" not in "".join(messages.values())


def test_keys_without_a_right_are_told_so(
    bucket: str, tmp_path: Path, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.use(monkeypatch, user="guest")

    messages = messages_of(f"{bucket}/prefix", tmp_path)

    for name in ("write", "list"):
        assert "these credentials have no right to do it. Allow them to list, read, write" in messages[name]


def test_no_keys_at_all_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    for message in messages_of(f"{bucket}/prefix", tmp_path).values():
        assert "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the Prefect" in message


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_said_and_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    for message in messages_of("s3://mirage-nobody-made-it/prefix", tmp_path).values():
        assert message.endswith("there is no such bucket. Create it, or choose another store root")


def test_a_clock_that_is_an_hour_off_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.auth

    right = botocore.auth.get_current_datetime
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *a, **k: right(*a, **k) - timedelta(hours=1))

    messages = messages_of(f"{bucket}/prefix", tmp_path)

    for name in ("write", "list"):
        assert "this machine's clock differs from the server's by too much. Set the clock" in messages[name]


def test_a_server_that_is_away_is_waited_for_by_a_later_attempt(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: SwiftServer
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)

    for message in messages_of(f"{bucket}/prefix", tmp_path, StoreUnavailable).values():
        assert "the server at http://127.0.0.1:9 does not answer. Check AWS_ENDPOINT_URL" in message


def test_an_endpoint_that_is_no_url_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")

    for message in messages_of(f"{bucket}/prefix", tmp_path).values():
        assert "AWS_ENDPOINT_URL is not a URL. Give it as https://host or http://host:port" in message


@pytest.mark.parametrize(
    "url", ["s3://key:canary@bucket/prefix", "s3://bucket/prefix?endpoint_url=http://key:canary@host", "s3a://canary@b"]
)
def test_keys_in_the_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="do not belong in the URL") as caught:
        Store.open(url)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "transient", "way_out"),
    [
        ("ExpiredToken", False, "Get a new one"),
        ("InvalidAccessKeyId", False, "does not know the access key"),
        ("PermanentRedirect", False, "AWS_DEFAULT_REGION"),
        ("301", False, "AWS_DEFAULT_REGION"),
        ("SlowDown", True, "Check that it is reachable"),
        ("InternalError", True, "Check that it is reachable"),
    ],
)
def test_what_only_aws_says_reads_as_well(code: str, transient: bool, way_out: str) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    raised = ClientError({"Error": {"Code": code, "Message": "in its own words"}}, "PutObject")

    error = store_error(translate_boto_error(raised), "s3://bucket/prefix", "runs/one.json", "write")

    assert error.transient is transient
    assert way_out in str(error)
