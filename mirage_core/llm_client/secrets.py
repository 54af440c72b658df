"""The key of an endpoint, read by a function that the caller sets, and its redaction from logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.errors import SettingsError

KeyReader = Callable[[TeacherRuntime], SecretStr | None]


def no_key(runtime: TeacherRuntime) -> SecretStr | None:  # noqa: ARG001 (a ReadKey)
    """Return no key: the default."""
    return None


_reader: ContextVar[KeyReader] = ContextVar("key reader", default=no_key)


@contextmanager
def use_key_reader(reader: KeyReader) -> Iterator[None]:
    """Read keys with ``reader`` inside the block; only tasks and flows may access the environment."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def read_api_key(runtime: TeacherRuntime) -> SecretStr | None:
    """Return the endpoint's key, None where it needs none; SettingsError for a key that no HTTP header can carry."""
    key = _reader.get()(runtime)
    if key is None or not key.get_secret_value().strip():
        return None
    plain = key.get_secret_value().strip()
    if not (plain.isascii() and plain.isprintable()) or " " in plain:
        raise SettingsError(
            f"the key in {runtime.api_key_block or runtime.api_key_variable} holds spaces or characters that no HTTP "
            "header can carry: set it again"
        )
    return SecretStr(plain)


REDACTED = "[key]"
_LIBRARIES = ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "anyio")


class _RedactingFilter(logging.Filter):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if self._secret in message:
            record.msg, record.args = message.replace(self._secret, REDACTED), ()
        return True


@contextmanager
def redact_logs(secret: str | None) -> Iterator[None]:
    """Redact a secret in the log lines of the HTTP libraries inside the block."""
    if secret is None:
        yield
        return
    redacting = _RedactingFilter(secret)
    # A logger's filter does not see its children's records, so each logger gets one.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LIBRARIES]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(redacting)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redacting)
