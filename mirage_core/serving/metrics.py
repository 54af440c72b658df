"""What a server tells about itself in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one server, in a registry of its own; ``running``, ``waiting``: read when they are asked for."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        Gauge("mirage_running_answers", "Answers being decoded.", registry=registry).set_function(running)
        Gauge("mirage_waiting_requests", "Requests that wait.", registry=registry).set_function(waiting)
        self.requests = Counter("mirage_requests", "Requests, by HTTP status.", ["status"], registry=registry)
        self.cancelled = Counter("mirage_cancelled_requests", "Requests whose client went away.", registry=registry)
        self.prompt_tokens = Counter("mirage_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.pictures = Counter(
            "mirage_pictures", "Pictures of prompts, by whether their features were kept (hit) or not (miss).",
            ["cache"], registry=registry,
        )  # fmt: skip
        for kind in ("hit", "miss"):  # told from the start, as the others are
            self.pictures.labels(kind)
        self.text_tokens = Counter(
            "mirage_text_tokens", "Decoded text tokens, borders of spans included.", registry=registry
        )
        self.latents = Counter("mirage_latents", "Decoded latents.", registry=registry)
        self.first_token = Histogram(
            "mirage_time_to_first_token_seconds", "From the request to its first token.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.duration = Histogram(
            "mirage_request_seconds", "From the request to its last token.", buckets=_SECONDS, registry=registry
        )

    def page(self) -> bytes:
        """The page of /metrics."""
        return generate_latest(self._registry)
