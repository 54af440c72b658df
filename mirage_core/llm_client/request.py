"""A request to a teacher's model, and the digest by which its answer is kept and found again."""

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
    """Exactly what is sent: model, messages and sampling; never where to, nor how often."""

    model: str
    revision: str | None
    messages: tuple[Message, ...]
    options: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """One sha256 over everything that may change the answer."""
        told = {"format": _FORMAT, "revision": self.revision, **self.body()}
        return hashlib.sha256(canonical_json(told)).hexdigest()

    def body(self) -> dict[str, Any]:
        """The arguments of a chat completion."""
        return {"model": self.model, "messages": list(self.messages), **self.options}

    def rough_tokens(self) -> int:
        """A rough count of the tokens it costs: a token per 3 characters, 1,000 a picture, and the longest answer."""
        text = pictures = 0
        for message in self.messages:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                text += len(part["text"]) if part["type"] == "text" else 0
                pictures += part["type"] != "text"
        limit = next(value for name, value in self.options.items() if name.startswith("max_"))
        return text // 3 + 1000 * pictures + int(limit)


def make_request(settings: TeacherSettings, messages: Sequence[Message]) -> Request:
    """The request that the settings make of messages; what is None is not sent."""
    chosen = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed}
    options = {name: value for name, value in chosen.items() if value is not None}
    return Request(
        model=str(settings.model),
        revision=settings.revision,
        messages=tuple(messages),
        options={**options, settings.max_tokens_field: settings.max_tokens},
    )
