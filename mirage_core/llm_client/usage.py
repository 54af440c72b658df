"""What a teacher's answers cost: tokens, which belong to the artifact, and how they were come by, which does not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from mirage_core.config import TeacherRuntime
from mirage_core.llm_client.response_cache import Answer


@dataclass(slots=True)
class Account:
    """Counts as the work goes on."""

    answers: int = 0
    kept: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    bought_prompt_tokens: int = 0
    bought_completion_tokens: int = 0
    without_usage: int = 0
    seen: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    def note(self, answer: Answer, *, kept: bool) -> None:
        """Count an answer, once however many problems it serves: ``kept``, it was paid for before."""
        if answer.request in self.seen:
            return
        self.seen.add(answer.request)
        prompt, completion = answer.prompt_tokens or 0, answer.completion_tokens or 0
        self.answers += 1
        self.kept += kept
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.bought_prompt_tokens += 0 if kept else prompt
        self.bought_completion_tokens += 0 if kept else completion
        self.without_usage += answer.prompt_tokens is None or answer.completion_tokens is None

    def lasting(self) -> dict[str, int]:
        """What depends on the answers alone: the same after a kill, a retry, or on another machine."""
        return {
            "answers": self.answers,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "answers_without_usage": self.without_usage,
        }

    def passing(self, prices: TeacherRuntime) -> dict[str, Any]:
        """How the answers were come by this time: what was sent, what was there, money (in the prices' unit), time."""
        return {
            "requests": self.requests,
            "retries": self.retries,
            "kept_answers": self.kept,
            "cost": cost(prices, self.prompt_tokens, self.completion_tokens),
            "cost_now": cost(prices, self.bought_prompt_tokens, self.bought_completion_tokens),
            "seconds": round(time.monotonic() - self.started, 3),
        }


def cost(prices: TeacherRuntime, prompt_tokens: int, completion_tokens: int) -> float:
    """The price of so many tokens."""
    return round((prompt_tokens * prices.price_prompt + completion_tokens * prices.price_completion) / 1e6, 6)
