"""A request to a model, and its digest, the key of its answer in the response cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mirage_core.config import TeacherSettings
from mirage_core.llm_client.messages import Message
from mirage_core.store.digests import canonical_json

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """The content of a request: model, messages and sampling; without address or retries."""

    model: str
    revision: str | None
    messages: tuple[Message, ...]
    options: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that may change the answer."""
        content = {"format": _FORMAT, "revision": self.revision, **self.body()}
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def body(self) -> dict[str, Any]:
        """The arguments of a chat completion."""
        return {"model": self.model, "messages": list(self.messages), **self.options}

    def rough_tokens(self) -> int:
        """Estimate its tokens: one for 3 characters, 1,000 an image, and the longest answer."""
        text = images = 0
        for message in self.messages:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                text += len(part["text"]) if part["type"] == "text" else 0
                images += part["type"] != "text"
        limit = next(value for name, value in self.options.items() if name.startswith("max_"))
        return text // 3 + 1000 * images + int(limit)


def make_request(settings: TeacherSettings, messages: Sequence[Message]) -> Request:
    """Build a request from settings and messages; options that are None are not sent."""
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed}
    options = {name: value for name, value in sampling.items() if value is not None}
    return Request(
        model=str(settings.model),
        revision=settings.revision,
        messages=tuple(messages),
        options={**options, settings.max_tokens_field: settings.max_tokens},
    )
