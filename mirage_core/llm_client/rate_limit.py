"""Rate limit of an endpoint: requests and tokens a minute, pauses for all requests, and Retry-After headers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE = 60.0


class RateLimiter:
    """Delays requests so that no window of a minute exceeds the limits.

    ``clock`` (seconds) and ``sleep`` can be replaced in tests. A request larger than the tokens of a whole minute
    passes when no other was sent within a minute.
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
        self._lock = asyncio.Lock()
        self._not_before = 0.0
        self._recent: deque[list[float]] = deque()  # [when, tokens] of the last minute

    async def acquire(self, tokens: int) -> list[float]:
        """Wait until a request of about ``tokens`` may be sent; returns its entry, for ``correct``."""
        async with self._lock:
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(wait)
            entry = [self._clock(), float(tokens)]
            self._recent.append(entry)
            return entry

    def correct(self, entry: list[float], tokens: int) -> None:
        """Replace the estimated tokens of a request by the actual ones."""
        entry[1] = float(tokens)

    def pause(self, seconds: float) -> None:
        """Let no request pass for ``seconds``."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        while self._recent and self._recent[0][0] <= now - MINUTE:
            self._recent.popleft()
        waits = [self._not_before - now]
        if self._requests is not None and len(self._recent) >= self._requests:
            waits.append(self._recent[0][0] + MINUTE - now)
        if self._tokens is not None:
            waits.append(self._wait_for_tokens(tokens, self._tokens) - now)
        return max(waits)

    def _wait_for_tokens(self, tokens: int, allowed: int) -> float:
        """Return the time at which enough of the last minute's requests have expired for this one to fit."""
        spent, free_at = sum(entry[1] for entry in self._recent), 0.0
        for when, cost in self._recent:
            if spent + tokens <= allowed:
                break
            spent -= cost
            free_at = when + MINUTE
        return free_at


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds to wait; None without a readable header. A date is relative to the server's clock if sent."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, ""))
        if seconds is not None:
            return seconds / divisor
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    current = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - current).total_seconds())


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
