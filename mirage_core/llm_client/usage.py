"""Usage of an endpoint: tokens of all answers (part of the artifact); requests, money and time of this run (not)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from mirage_core.config import TeacherRuntime
from mirage_core.llm_client.response_cache import Answer


@dataclass(slots=True)
class Usage:
    """Counters, updated with every answer."""

    answers: int = 0
    cached: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    new_prompt_tokens: int = 0
    new_completion_tokens: int = 0
    without_usage: int = 0
    seen: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    def count(self, answer: Answer, *, cached: bool) -> None:
        """Count an answer, once for all problems that share it; ``cached``: it was paid for earlier."""
        if answer.request in self.seen:
            return
        self.seen.add(answer.request)
        prompt, completion = answer.prompt_tokens or 0, answer.completion_tokens or 0
        self.answers += 1
        self.cached += cached
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.new_prompt_tokens += 0 if cached else prompt
        self.new_completion_tokens += 0 if cached else completion
        self.without_usage += answer.prompt_tokens is None or answer.completion_tokens is None

    def deterministic(self) -> dict[str, int]:
        """Return what depends on the answers only: equal after a kill, a retry, or on another machine."""
        return {
            "answers": self.answers,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "answers_without_usage": self.without_usage,
        }

    def this_run(self, prices: TeacherRuntime) -> dict[str, Any]:
        """Return what depends on this run: requests, cached answers, cost (in the currency of ``prices``), seconds."""
        return {
            "requests": self.requests,
            "retries": self.retries,
            "kept_answers": self.cached,
            "cost": cost(prices, self.prompt_tokens, self.completion_tokens),
            "cost_now": cost(prices, self.new_prompt_tokens, self.new_completion_tokens),
            "seconds": round(time.monotonic() - self.started, 3),
        }


def cost(prices: TeacherRuntime, prompt_tokens: int, completion_tokens: int) -> float:
    """Return the price of the tokens."""
    return round((prompt_tokens * prices.price_prompt + completion_tokens * prices.price_completion) / 1e6, 6)
