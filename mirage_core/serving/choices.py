"""One answer on its way to a client: tokens become text, thoughts, log-probabilities and counts, latents a film."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob

from mirage_core.generation.continuous import RowStep
from mirage_core.generation.trajectory import Trajectory
from mirage_core.serving.texts import Detokenizer, Piece, StopWords, ThoughtSplitter

FinishReason = Literal["stop", "length"]


@dataclass
class Span:
    """A span of so many ``latents``, behind so many characters of the content, and of the thoughts."""

    latents: int
    content: int
    reasoning: int


@dataclass
class Choice:
    """Takes the steps of one row. ``hidden``: tokens without text (borders of spans, the end of turn).

    ``tokens``: text tokens so far, with the borders of spans and the end of turn; ``film``: what latents imagine.
    ``log_probs``: of the tokens of its text, which are let through with the text that they begin in.
    ``trajectory``: all of it, where the model ended it.
    """

    decode: Callable[[list[int]], str]
    stop: Sequence[str]
    hidden: Collection[int]
    tokens: int = 0
    spans: list[Span] = field(default_factory=list)
    film: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    trajectory: Trajectory | None = None

    def __post_init__(self) -> None:
        self._detokenizer, self._stop_words = Detokenizer(self.decode), StopWords(self.stop)
        self._splitter = ThoughtSplitter()
        self._in_span = False
        self._begun, self._certain, self._sent = 0, 0, [0, 0]
        self._pending: list[tuple[int, ChatCompletionTokenLogprob]] = []

    @property
    def latents(self) -> list[int]:
        """The latents of each span."""
        return [span.latents for span in self.spans]

    def add(self, step: RowStep) -> list[Piece]:
        """Return the text that a step adds for certain."""
        if step.is_latent:
            pieces = self._counted(self._let_through(self._detokenizer.flush()))
            if not self._in_span:
                self.spans.append(Span(0, *self._sent))
            self.spans[-1].latents += 1
            self._in_span = True
            return pieces
        self._in_span = False
        self.tokens += 1
        self.trajectory = step.answer
        text = ""
        if step.token not in self.hidden:
            top = [TopLogprob(token=self.decode([token]), logprob=value, bytes=None) for token, value in step.top]
            entry = ChatCompletionTokenLogprob(
                token=self.decode([step.token]), logprob=step.log_prob, bytes=None, top_logprobs=top
            )
            self._pending.append((self._begun, entry))
            text = self._detokenizer.add(step.token)
        pieces = self._let_through(text if step.answer is None else text + self._detokenizer.flush())
        if self._stop_words.stopped:
            self.finish_reason = "stop"
        elif step.answer is not None:
            self.finish_reason = "stop" if step.answer.finished else "length"
        return self._counted(pieces if self.finish_reason is None else [*pieces, *self._rest()])

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

    def _counted(self, pieces: list[Piece]) -> list[Piece]:
        """Count the characters of text that goes to the client."""
        for piece in pieces:
            self._sent[piece.thought] += len(piece.text)
        return pieces

    def _rest(self) -> list[Piece]:
        """What was held back, at the end."""
        pending = self._stop_words.flush()
        self._certain += len(pending)
        return [*self._splitter.add(pending), *self._splitter.flush()]
