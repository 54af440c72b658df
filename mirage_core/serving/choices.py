"""One answer on its way to a client: tokens become text, thoughts, log-probabilities and counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob

from mirage_core.generation.continuous import RowStep
from mirage_core.generation.trajectory import Trajectory
from mirage_core.serving.texts import Detokenizer, Piece, StopWords, ThoughtSplitter

FinishReason = Literal["stop", "length"]


@dataclass
class Choice:
    """Takes the steps of one row. ``hidden``: tokens without text (borders of spans, the end of turn).

    ``tokens``: text tokens so far, with the borders of spans and the end of turn; ``latents``: those of each span.
    ``log_probs``: of the tokens of its text, which are let through with the text that they begin in.
    ``trajectory``: all of it, where the model ended it.
    """

    decode: Callable[[list[int]], str]
    stop: Sequence[str]
    hidden: Collection[int]
    tokens: int = 0
    latents: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    trajectory: Trajectory | None = None

    def __post_init__(self) -> None:
        self._detokenizer, self._stop_words = Detokenizer(self.decode), StopWords(self.stop)
        self._splitter = ThoughtSplitter()
        self._in_span = False
        self._begun, self._certain = 0, 0
        self._pending: list[tuple[int, ChatCompletionTokenLogprob]] = []

    def add(self, step: RowStep) -> list[Piece]:
        """Return the text that a step adds for certain."""
        if step.is_latent:
            if not self._in_span:
                self.latents.append(0)
            self.latents[-1] += 1
            self._in_span = True
            return self._let_through(self._detokenizer.flush())
        self._in_span = False
        self.tokens += 1
        self.trajectory = step.answer
        text = ""
        if step.token not in self.hidden:
            entry = ChatCompletionTokenLogprob(
                token=self.decode([step.token]), logprob=step.log_prob, bytes=None, top_logprobs=[]
            )
            self._pending.append((self._begun, entry))
            text = self._detokenizer.add(step.token)
        pieces = self._let_through(text if step.answer is None else text + self._detokenizer.flush())
        if self._stop_words.stopped:
            self.finish_reason = "stop"
        elif step.answer is not None:
            self.finish_reason = "stop" if step.answer.finished else "length"
        return pieces if self.finish_reason is None else [*pieces, *self._rest()]

    def log_probs(self) -> list[ChatCompletionTokenLogprob]:
        """Return the log-probabilities of the tokens whose text has begun since the last call."""
        over = self.finish_reason is not None and not self._stop_words.stopped
        ready = [entry for begin, entry in self._pending if over or begin < self._certain]
        self._pending = self._pending[len(ready) :]
        return ready

    def _let_through(self, text: str) -> list[Piece]:
        self._begun += len(text)
        certain = self._stop_words.add(text)
        self._certain += len(certain)
        return self._splitter.add(certain)

    def _rest(self) -> list[Piece]:
        """What was held back, at the end."""
        held = self._stop_words.flush()
        self._certain += len(held)
        return [*self._splitter.add(held), *self._splitter.flush()]
