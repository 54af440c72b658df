"""How fast an endpoint is asked: requests and tokens a minute, and pauses that hold for everybody."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE = 60.0


class Pace:
    """Lets requests pass one after the other so that no window of a minute holds more than was allowed.

    ``clock`` (seconds) and ``sleep`` can be given for tests. A request larger than the tokens of a whole minute passes
    when nothing else was asked within one.
    """

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._not_before = 0.0
        self._passed: deque[list[float]] = deque()  # [when, tokens] of the last minute

    async def admit(self, tokens: int) -> list[float]:
        """Wait until a request of about so many tokens may be sent; returns its entry, for ``settle``."""
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(wait)
            entry = [self._clock(), float(tokens)]
            self._passed.append(entry)
            return entry

    def settle(self, entry: list[float], tokens: int) -> None:
        """Put the tokens that a request really cost in the place of the guess."""
        entry[1] = float(tokens)

    def hold(self, seconds: float) -> None:
        """Let nobody pass for so long."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        while self._passed and self._passed[0][0] <= now - MINUTE:
            self._passed.popleft()
        waits = [self._not_before - now]
        if self._requests is not None and len(self._passed) >= self._requests:
            waits.append(self._passed[0][0] + MINUTE - now)
        if self._tokens is not None:
            waits.append(self._wait_for_tokens(tokens, self._tokens) - now)
        return max(waits)

    def _wait_for_tokens(self, tokens: int, allowed: int) -> float:
        """When enough of the last minute's requests have gone by for this one to fit."""
        spent, free_at = sum(entry[1] for entry in self._passed), 0.0
        for when, cost in self._passed:
            if spent + tokens <= allowed:
                break
            spent -= cost
            free_at = when + MINUTE
        return free_at


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait, None where nothing (readable) is asked; a date counts from the server's own clock if told."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, ""))
        if seconds is not None:
            return seconds / divisor
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    told = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - told).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
