"""One request against servers that fail in every way: which errors are retryable, and where the key goes."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.llm_client.client import EndpointClient, FatalError, RefusedError, Reply, RequestError, RetryableError
from mirage_core.llm_client.request import Request, make_request
from tests.llm_client.chat_server import Call, ChatServer, chat_server, completion
from tests.teacher.conftest import teacher_runtime, teacher_settings

KEY = "sk-canary-7f3a9c"
REQUEST: Request = make_request(teacher_settings(), [{"role": "user", "content": "hello"}])


def send(url: str, key: str | None = KEY, **changes: Any) -> Reply | RequestError:
    """What comes of one request."""

    async def once() -> Reply | RequestError:
        async with EndpointClient(teacher_runtime(url, **changes), SecretStr(key) if key else None) as endpoint:
            try:
                return await endpoint.send(REQUEST)
            except RequestError as error:
                return error

    result = asyncio.run(once())
    if isinstance(result, RequestError):
        assert (result.__cause__, result.__context__) == (None, None)  # they would hold the request, and that the key
    return result


def outcome(respond: Callable[[Call], None], **changes: Any) -> tuple[Reply | RequestError, ChatServer]:
    with chat_server(respond) as server:
        return send(server.url, **changes), server


@contextmanager
def raw_server(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server below HTTP: it takes one connection after the other and does with each what ``reply`` says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    reply(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def test_a_good_answer_is_read_with_its_usage_and_the_model_that_gave_it() -> None:
    reply, server = outcome(lambda call: call.reply("well"))
    assert reply == Reply(text="well", finish="stop", served="served", prompt_tokens=100, completion_tokens=20)
    assert server.calls[0].path == "/v1/chat/completions"
    assert server.calls[0].body == {
        "model": "tiny-teacher", "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.0, "seed": 42, "max_tokens": 2048,
    }  # fmt: skip


def test_only_what_belongs_to_the_request_is_sent_whatever_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: yes")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for key in (KEY, None):
        _, server = outcome(lambda call: call.reply("well"), key=key)
        headers = server.calls[0].headers
        assert headers.get("authorization") == (f"Bearer {KEY}" if key else None)
        assert set(headers) <= {
            "host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent",
            "authorization",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, RefusedError, "refused the request (400): out of order"),
        (413, RefusedError, "413"),
        (422, RefusedError, "422"),
        (401, FatalError, r"refused the key of $OPENAI_API_KEY (401)"),
        (403, FatalError, "403"),
        (404, FatalError, "Check teacher.model"),
        (408, RetryableError, "408"),
        (429, RetryableError, "429"),
        (500, RetryableError, "answered 500: out of order"),
        (503, RetryableError, "503"),
    ],
)
def test_every_status_has_its_meaning_and_names_the_host(status: int, kind: type[RequestError], message: str) -> None:
    error, server = outcome(lambda call: call.fail(status))
    assert type(error) is kind
    assert message in str(error)
    assert server.url.split("/")[2] in str(error)
    assert len(server.calls) == 1


def test_a_request_without_a_key_that_needs_one_says_where_the_key_belongs() -> None:
    error, _ = outcome(lambda call: call.fail(401), key=None)
    assert "a request without a key (none in $OPENAI_API_KEY)" in str(error)
    error, _ = outcome(lambda call: call.fail(401), api_key_block="teacher-key")
    assert "the key of the block teacher-key" in str(error)


def test_an_account_without_credit_is_not_asked_again() -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    error, _ = outcome(lambda call: call.send(429, body))
    assert isinstance(error, FatalError)
    assert "no credit" in str(error)


def test_retry_after_is_read_in_seconds_and_as_a_date_by_the_servers_own_clock() -> None:
    error, _ = outcome(lambda call: call.fail(429, retry_after="17"))
    assert isinstance(error, RetryableError) and error.wait_s == 17 and error.all_requests
    now = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)

    def dated(call: Call) -> None:
        call.handler.date_time_string = lambda timestamp=None: format_datetime(now, usegmt=True)
        call.fail(503, retry_after=later)

    error, _ = outcome(dated)
    assert isinstance(error, RetryableError) and error.wait_s == 90 and error.all_requests
    error, _ = outcome(lambda call: call.fail(500))
    assert isinstance(error, RetryableError) and error.wait_s is None and not error.all_requests


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html>bad gateway</html>", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"object": "error", "message": "overloaded"}, "choices"),
        ({"choices": []}, "choices"),
        ({"choices": [{"message": {"content": {"text": "x"}}}]}, "choices.0.message.content"),
        ({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -4}}, "usage.prompt_tokens"),
    ],
)
def test_what_is_no_chat_completion_is_never_taken_for_an_answer(body: Any, fault: str) -> None:
    error, _ = outcome(lambda call: call.send(200, body))
    assert isinstance(error, RetryableError)
    assert fault in str(error)
    assert len(str(error)) < 700


def test_an_answer_may_come_without_usage_text_or_finish() -> None:
    reply, _ = outcome(lambda call: call.send(200, {"choices": [{"message": {"content": None}}]}))
    assert reply == Reply(text="", finish="stop", served="", prompt_tokens=None, completion_tokens=None)
    reply, _ = outcome(lambda call: call.reply(None, refusal="I will not"))
    assert isinstance(reply, Reply) and (reply.text, reply.finish) == ("I will not", "refusal")
    reply, _ = outcome(lambda call: call.reply("a \ud800 lone surrogate"))
    assert isinstance(reply, Reply) and reply.text.encode() == b"a ? lone surrogate"


def test_a_cut_answer_is_noticed_with_and_without_a_length() -> None:
    full = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    with raw_server(lambda it: it.sendall(full + b'Content-Length: 900\r\n\r\n{"choices": [')) as url:
        assert isinstance(send(url), RetryableError)
    with raw_server(lambda it: it.sendall(full + b'Connection: close\r\n\r\n{"choices": [')) as url:
        assert isinstance(send(url), RetryableError)
    with raw_server(lambda it: it.sendall(full + b"Transfer-Encoding: chunked\r\n\r\n20\r\n{")) as url:
        assert isinstance(send(url), RetryableError)
    with raw_server(lambda it: None) as url:
        error = send(url)
    assert isinstance(error, RetryableError) and "connection to" in str(error)


def test_nobody_there_is_worth_another_try_and_names_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = send(f"http://127.0.0.1:{port}/v1")
    assert isinstance(error, RetryableError)
    assert f"127.0.0.1:{port}" in str(error)


def test_a_silent_server_and_one_that_drips_are_given_up_at_the_time_out() -> None:
    over = threading.Event()
    error, _ = outcome(lambda call: over.wait(30) and None, timeout_s=0.3)
    assert isinstance(error, RetryableError) and "within 0.3 s" in str(error)

    full = json.dumps(completion("well")).encode()

    def drip(it: socket.socket) -> None:
        # Each byte comes well within any read time-out, and in the end it is a good answer: only the time of the
        # whole answer ends this.
        it.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(full) + 250}\r\n\r\n".encode())
        try:
            for _ in range(250):
                over.wait(0.02)
                it.sendall(b" ")
            it.sendall(full)
        except OSError:
            return

    with raw_server(drip) as url:
        error = send(url, timeout_s=0.5)
    over.set()
    assert isinstance(error, RetryableError) and "within 0.5 s" in str(error)


def test_a_huge_answer_is_not_read_to_its_end_whatever_its_status() -> None:
    sent = []

    def flood(status: bytes) -> Callable[[socket.socket], None]:
        def reply(it: socket.socket) -> None:
            it.sendall(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n")
            sent.append(0)
            try:
                for _ in range(4096):
                    it.sendall(b" " * 65536)
                    sent[-1] += 65536
            except OSError:
                return

        return reply

    for status in (b"200 OK", b"500 Oops", b"429 Slow", b"401 No"):
        with raw_server(flood(status)) as url:
            error = send(url, max_answer_bytes=100_000)
        assert isinstance(error, FatalError), error
        assert "more than 100000 bytes" in str(error)
        assert sent[-1] < 64 * 2**20
    declared, _ = outcome(lambda call: call.reply("x" * 5000), max_answer_bytes=2000)
    assert isinstance(declared, FatalError)


def test_a_compressed_answer_is_refused_since_it_could_grow_without_bound() -> None:
    import gzip

    error, server = outcome(lambda call: call.send(200, gzip.compress(b" " * 10**6), content_encoding="gzip"))
    assert isinstance(error, FatalError)
    assert server.calls[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed_and_takes_no_key_along(status: int) -> None:
    with chat_server(lambda call: call.reply("stolen")) as thief:
        error, server = outcome(lambda call: call.send(status, {}, location=thief.url + "/chat/completions"))
        assert thief.calls == []
    assert isinstance(error, FatalError)
    assert f"redirects to {thief.url.split('/')[2]}" in str(error)
    assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "respond",
    [
        lambda call: call.fail(401, f"Incorrect API key provided: {KEY}"),
        lambda call: call.fail(400, f"headers were {dict(call.headers)}"),
        lambda call: call.fail(500, f"Bearer {KEY} \x1b[2J\nfake log line"),
        lambda call: call.send(307, {}, location=f"http://{KEY}.example/x"),
        lambda call: call.send(200, f"echo {KEY}".encode()),
        lambda call: call.send(200, {"choices": [{"message": {"content": [KEY]}}]}),
        lambda call: call.send(200, {**completion(f"my key is {KEY}"), "model": KEY}),
    ],
)
def test_an_endpoint_that_echoes_the_key_gets_it_neither_into_errors_nor_answers_nor_logs(
    respond: Callable[[Call], None], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("", "openai", "httpx2", "httpcore2", "httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    result, _ = outcome(respond)
    assert KEY not in f"{result!r} {result}"
    assert "\x1b" not in str(result) and "\n" not in str(result)
    assert KEY not in caplog.text
    assert KEY not in "".join(str(vars(record)) for record in caplog.records)
    captured = capfd.readouterr()
    assert KEY not in captured.out + captured.err


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Any) -> None:
    import ssl
    import subprocess

    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(private), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    received: list[bytes] = []

    def reply(connection: socket.socket) -> None:
        """Nothing: the handshake is what counts."""

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    received.append(secure.recv(65536))
            except (ssl.SSLError, OSError):
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        error = send(f"https://127.0.0.1:{listening.getsockname()[1]}/v1")
        thread.join(timeout=10)
    assert isinstance(error, FatalError)
    assert "certificate" in str(error) and "SSL_CERT_FILE" in str(error)
    assert received in ([], [b""])


def test_the_key_is_put_on_no_request_to_another_origin() -> None:
    import httpx2

    def headers(url: str) -> Any:
        request = httpx2.Request("POST", url, headers={"Authorization": "Bearer unused"})
        asyncio.run(EndpointClient(teacher_runtime("http://host:80/v1"), SecretStr(KEY))._clean_request(request))
        return request.headers.get("authorization")

    assert headers("http://host/v1/chat/completions") == f"Bearer {KEY}"
    for url in ("https://host/v1", "http://host:81/v1", "http://other/v1", "http://host.other/v1"):
        assert headers(url) is None, url


def test_the_client_shows_no_key_when_it_is_printed() -> None:
    endpoint = EndpointClient(TeacherRuntime(base_url="http://127.0.0.1:1/v1"), SecretStr(KEY))
    assert KEY not in repr(endpoint) + str(vars(endpoint))
