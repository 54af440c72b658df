"""Nobody logs the key: lines of the HTTP libraries are freed of it, whatever an endpoint echoes into its headers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
