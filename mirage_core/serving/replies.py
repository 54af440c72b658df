"""Completions as OpenAI's clients expect them: whole, or chunk by chunk, by the types of the ``openai`` package.

Thoughts (text within ``<think>``) are ``reasoning`` and ``reasoning_content``, as clients differ; ``content`` is never
null. ``latents``: how many latents each span of an answer holds. Where a request asks for them, ``spans`` tells where
these are, and ``film`` what each latent imagines; the lists of a stream add up to those of a whole answer by ``index``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice as CompleteChoice
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
from openai.types.completion_usage import CompletionTokensDetails, CompletionUsage

from mirage_core.serving.choices import Choice, Span
from mirage_core.serving.texts import Piece


def usage(prompt_tokens: int, choices: Sequence[Choice]) -> CompletionUsage:
    """Return the counts of a request: latents are completion tokens, and the reasoning tokens among them."""
    latents = sum(sum(choice.latents) for choice in choices)
    completion = latents + sum(choice.tokens for choice in choices)
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion,
        total_tokens=prompt_tokens + completion,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=latents),
    )


class Reply:
    """Writes the answer to one request; ``log_probs``: with those of its tokens; ``spans``, ``film``: with these."""

    def __init__(self, model: str, *, log_probs: bool, spans: bool = False, film: bool = False) -> None:
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self._model, self._log_probs, self._spans, self._film = model, log_probs, spans, film

    def complete(
        self,
        prompt_tokens: int,
        choices: Sequence[Choice],
        pieces: Sequence[Sequence[Piece]],
        trajectories: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Return the JSON of whole answers; ``pieces``: the text of each choice; ``trajectories``: or none."""
        more = [{"trajectory": one} for one in trajectories] or [{} for _ in choices]
        reply = ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            choices=[self._choice(at, *each) for at, each in enumerate(zip(choices, pieces, more, strict=True))],
            usage=usage(prompt_tokens, choices),
        )
        return reply.model_dump_json(exclude_unset=True)

    def first(self, number: int) -> str:
        """Return the event that begins a choice."""
        return self._event(number, ChoiceDelta(role="assistant", content=""))

    def added(self, number: int, piece: Piece, log_probs: Sequence[ChatCompletionTokenLogprob]) -> str:
        """Return the event of more text of a choice, with the tokens that came since the last event."""
        fields = (
            {"reasoning": piece.text, "reasoning_content": piece.text} if piece.thought else {"content": piece.text}
        )
        return self._event(number, ChoiceDelta.model_validate(fields), log_probs=log_probs)

    def latent(self, number: int, choice: Choice) -> str:
        """Return the event of one more latent of a choice; nothing where the request does not ask for any of it."""
        fields: dict[str, Any] = {}
        if self._spans:
            fields["spans"] = [_grown(len(choice.spans) - 1, choice.spans[-1])]
        if self._film:
            fields["film"] = choice.film[-1:]
        return self._event(number, ChoiceDelta.model_validate(fields)) if fields else ""

    def last(self, number: int, choice: Choice, log_probs: Sequence[ChatCompletionTokenLogprob]) -> str:
        """Return the event that ends a choice."""
        delta = ChoiceDelta.model_validate({"latents": choice.latents})
        return self._event(number, delta, finish_reason=choice.finish_reason, log_probs=log_probs)

    def total(self, prompt_tokens: int, choices: Sequence[Choice]) -> str:
        """Return the event with the counts of the request."""
        return self._chunk([], usage=usage(prompt_tokens, choices))

    def _choice(self, number: int, choice: Choice, pieces: Sequence[Piece], more: Mapping[str, Any]) -> CompleteChoice:
        thoughts, content = ("".join(piece.text for piece in pieces if piece.thought is kind) for kind in (True, False))
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "latents": choice.latents}
        message |= more
        if thoughts:
            message |= {"reasoning": thoughts, "reasoning_content": thoughts}
        if self._spans:
            message["spans"] = [{"index": index, **asdict(span)} for index, span in enumerate(choice.spans)]
        if self._film:
            message["film"] = choice.film
        assert choice.finish_reason is not None
        return CompleteChoice(
            index=number,
            finish_reason=choice.finish_reason,
            logprobs=ChoiceLogprobs(content=choice.log_probs(), refusal=None) if self._log_probs else None,
            message=ChatCompletionMessage.model_validate(message),
        )

    def _event(
        self,
        number: int,
        delta: ChoiceDelta,
        *,
        finish_reason: Any = None,
        log_probs: Sequence[ChatCompletionTokenLogprob] = (),
    ) -> str:
        own = ChunkLogprobs(content=list(log_probs), refusal=None) if self._log_probs and log_probs else None
        return self._chunk([ChunkChoice(index=number, delta=delta, finish_reason=finish_reason, logprobs=own)])

    def _chunk(self, choices: list[ChunkChoice], **more: Any) -> str:
        chunk = ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=choices,
            **more,
        )
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"


def _grown(index: int, span: Span) -> dict[str, int]:
    """One more latent of a span; its place comes with the first."""
    place = {"content": span.content, "reasoning": span.reasoning} if span.latents == 1 else {}
    return {"index": index, "latents": 1, **place}
