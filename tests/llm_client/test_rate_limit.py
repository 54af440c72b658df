"""The rate limit on a clock that the tests move, and Retry-After headers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.llm_client.rate_limit import RateLimiter, retry_after


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def admitted(costs: list[int], requests: int | None, tokens: int | None) -> list[float]:
    """When each of the requests passed, in seconds from the start."""

    async def all_of_them() -> list[float]:
        clock = Clock()
        limiter = RateLimiter(requests, tokens, clock, clock.sleep)
        return [(await limiter.acquire(cost))[0] - 1000.0 for cost in costs]

    return asyncio.run(all_of_them())


def test_without_limits_nobody_waits() -> None:
    assert admitted([10**9] * 5, None, None) == [0.0] * 5


def test_no_minute_holds_more_requests_than_allowed() -> None:
    assert admitted([0] * 7, 3, None) == [0, 0, 0, 60, 60, 60, 120]


def test_no_minute_holds_more_tokens_than_allowed() -> None:
    assert admitted([400, 400, 400, 100], None, 1000) == [0, 0, 60, 60]


def test_a_request_larger_than_a_minutes_tokens_passes_alone() -> None:
    assert admitted([5000, 1], None, 1000) == [0, 60]


@given(st.lists(st.integers(0, 700), min_size=1, max_size=30), st.integers(1, 5), st.integers(700, 1500))
def test_every_window_of_a_minute_keeps_both_limits(costs: list[int], requests: int, tokens: int) -> None:
    times = admitted(costs, requests, tokens)
    assert times == sorted(times)
    for start in times:
        inside = [cost for when, cost in zip(times, costs, strict=True) if start <= when < start + 60 - 1e-6]
        assert len(inside) <= requests
        assert sum(inside) <= tokens


def test_what_a_request_really_cost_takes_the_place_of_the_guess() -> None:
    async def second_passes_at() -> float:
        clock = Clock()
        limiter = RateLimiter(None, 1000, clock, clock.sleep)
        limiter.correct(await limiter.acquire(900), 100)
        return (await limiter.acquire(900))[0]

    assert asyncio.run(second_passes_at()) == 1000.0


def test_a_pause_holds_for_everybody_and_the_longest_counts() -> None:
    async def passes_at() -> float:
        clock = Clock()
        limiter = RateLimiter(None, None, clock, clock.sleep)
        limiter.pause(30)
        limiter.pause(5)
        return (await limiter.acquire(1))[0]

    assert asyncio.run(passes_at()) == 1030.0


NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Tue, 01 Jan 2030 12:01:30 GMT"}, 90),
        ({"retry-after": "Tue, 01 Jan 2030 12:01:30 GMT", "date": "Tue, 01 Jan 2030 12:01:00 GMT"}, 30),
        ({"retry-after": "Tue, 01 Jan 2030 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Tue, 99 Foo 2030"}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
