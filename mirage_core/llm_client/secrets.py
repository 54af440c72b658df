"""Where an endpoint's key comes from: whoever starts the work says how it is read; only the client holds it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.errors import SettingsError

ReadKey = Callable[[TeacherRuntime], SecretStr | None]


def no_key(runtime: TeacherRuntime) -> SecretStr | None:  # noqa: ARG001 (a ReadKey)
    """Nobody said where the key is: none is sent."""
    return None


_reader: ContextVar[ReadKey] = ContextVar("reader of the teacher's key", default=no_key)


@contextmanager
def keys_from(reader: ReadKey) -> Iterator[None]:
    """Let the work inside read keys with ``reader``; tasks and flows know the environment, this floor does not."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def key_of(runtime: TeacherRuntime) -> SecretStr | None:
    """The endpoint's key, None where it needs none; SettingsError for one that no HTTP header can hold."""
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


HIDDEN = "[key]"
_LIBRARIES = ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "anyio")


class _Redacted(logging.Filter):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if self._secret in said:
            record.msg, record.args = said.replace(self._secret, HIDDEN), ()
        return True


@contextmanager
def logs_without(secret: str | None) -> Iterator[None]:
    """Keep a secret out of the lines that the HTTP libraries log inside."""
    if secret is None:
        yield
        return
    redacted = _Redacted(secret)
    # A logger's filter does not see what its children log, so each is given it.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LIBRARIES]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(redacted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redacted)
