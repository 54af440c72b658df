"""The spans of many answers in one batch, and the latents of each by its number: pure torch, no vLLM.

Everything that depends on sampled tokens stays on the device: the engine may be a step ahead of the host. Legend:
S seats, n rows of a step, m tokens of answers in a step, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_vllm.readout import Readout
from mirage_vllm.settings import READOUT_FILE, SettingsError, SpanSettings

_MINUS_INF = float("-inf")
NO_LIMIT = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """What a request asks for: ``imagines`` False: no spans; ``max_text_tokens``: the answer ends after so many tokens
    that are no latents. ``temperature``: at which its tokens are sampled."""

    imagines: bool = True
    max_text_tokens: int = NO_LIMIT
    temperature: float = 1.0


class AnswerSpans:
    """For every seat: its span, if one is open, and the latents of its answer."""

    def __init__(
        self,
        settings: SpanSettings,
        seats: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        readout: Readout | None = None,
    ) -> None:
        """Make room for ``seats`` answers of latents of ``width``; memory is S x (latents of an answer + 1) x D.

        ``readout``: reads latents off hidden states; None: they are fed as they are. SettingsError for spans that end
        near a vector that the readout lacks.
        """
        if settings.near is not None and (readout is None or readout.stop is None):
            raise SettingsError(
                f"latent.end is near, and the folder has no vector that ends spans ({READOUT_FILE}): copy the file "
                "from where the model was trained"
            )
        self._settings, self._device, self._readout = settings, device, readout
        self._latents = torch.zeros(seats, settings.most_latents + 1, width, dtype=dtype, device=device)
        """By number in the answer: those that were fed, and after them what would be fed next."""
        self._fed = self._numbers(seats, 0)
        """Latents that were fed."""
        self._open = self._numbers(seats, -1)
        """Latents of the open span that were fed; -1 in text."""
        self._spans, self._most_spans = self._numbers(seats, 0), self._numbers(seats, 0)
        self._prompt, self._text_limit = self._numbers(seats, 0), self._numbers(seats, NO_LIMIT)
        self._temperature = torch.ones(seats, device=device)
        self._banned = torch.tensor((settings.pad, *settings.banned), device=device)
        self._borders = torch.tensor((settings.start, settings.end), device=device)

    def _numbers(self, seats: int, value: int) -> Tensor:
        return torch.full((seats,), value, dtype=torch.int64, device=self._device)

    def begin(self, seat: int, tokens: Sequence[int], prompt: int, computed: int, options: RowOptions) -> None:
        """Seat a request with ``tokens`` [T], the first ``prompt`` of which are its prompt, the others what it has
        answered so far; the first ``computed`` are in the cache. Its latents, if it has any, are those of the seat."""
        settings = self._settings
        opened, spans = -1, 0
        for token in tokens[prompt - 1 : -1]:
            opened, spans = self._after(token, opened, spans)
        self._fed[seat] = sum(token == settings.pad for token in tokens[prompt:computed])
        self._open[seat], self._spans[seat] = opened, spans
        self._most_spans[seat] = settings.max_spans if options.imagines else 0
        self._prompt[seat], self._text_limit[seat] = prompt, options.max_text_tokens
        self._temperature[seat] = options.temperature

    def _after(self, token: int, opened: int, spans: int) -> tuple[int, int]:
        """The open span and the number of spans after one more token."""
        if token == self._settings.start:
            return 0, spans + 1
        return (opened + 1 if token == self._settings.pad and opened >= 0 else -1), spans

    def needs_latents(self, tokens: Sequence[int], prompt: int) -> bool:
        """Whether an answer so far holds latents that only its seat knows."""
        return self._settings.fed and self._settings.pad in tokens[prompt:]

    def substitute(self, embeddings: Tensor, ids: Tensor, seats: Tensor, firsts: Tensor) -> Tensor:
        """Return ``embeddings`` [m, D] of tokens ``ids`` [m] of answers, in their order, with latents in their places.

        ``seats`` [m]: of each token; ``firsts`` [m]: the index of the first token of its row in this step.
        """
        latent = ids == self._settings.pad
        so_far = latent.cumsum(0)
        before = so_far[firsts] - latent[firsts].long()
        number = (self._fed[seats] + so_far - 1 - before).clamp(0, self._latents.shape[1] - 1)
        self._fed.index_add_(0, seats, latent.long())
        if not self._settings.fed:
            return embeddings
        return torch.where(latent[:, None], self._latents[seats, number].to(embeddings.dtype), embeddings)

    def advance(self, seats: Tensor, last: Tensor, hidden: Tensor, complete: Tensor) -> None:
        """Take note of the last token of each row, ``last`` [n], and its hidden state [n, D].

        ``complete`` [n]: rows all of whose tokens are computed; the others sample nothing yet.
        """
        settings, opened = self._settings, self._open[seats]
        starts = last == settings.start
        goes_on = (last == settings.pad) & (opened >= 0)
        fed = self._latents[seats, (self._fed[seats] - 1).clamp(min=0)]
        after = torch.where(starts, 0, torch.where(goes_on, self._after_latent(opened + 1, fed), -1))
        self._open[seats] = torch.where(complete, after, opened)
        self._spans[seats] += (starts & complete).long()
        following = self._fed[seats].clamp(max=self._latents.shape[1] - 1)
        kept = self._latents[seats, following]
        latent = hidden if self._readout is None else self._readout(hidden)
        self._latents[seats, following] = torch.where(complete[:, None], latent.to(kept.dtype), kept)

    def _after_latent(self, opened: Tensor, fed: Tensor) -> Tensor:
        """The latents of open spans [n]; as many as there can be after one of ``fed`` [n, D] that ends its span."""
        near, readout = self._settings.near, self._readout
        if near is None or readout is None or readout.stop is None:
            return opened
        ends = (fed.float() - readout.stop.float()).square().mean(-1) < near
        return torch.where(ends, self._settings.limit, opened)

    def constrain(self, logits: Tensor, seats: Tensor, positions: Tensor) -> None:
        """Put the logits [n, V] of the next tokens under the rules of spans, in place, after ``advance``.

        ``positions`` [n]: of the last token of each row in its sequence. A forced token has the logit 0, all others
        minus infinity.
        """
        settings, opened = self._settings, self._open[seats]
        inside, full = opened >= 0, opened >= settings.limit
        chooses = inside & (full if settings.kind == "open" else (opened > 0) & ~full)
        if settings.kind == "exact":
            chooses = torch.zeros_like(chooses)
        self._ban(logits, seats, may_end=chooses)
        if settings.kind == "free":
            self._end_or_latent(logits, seats, chooses)
        next_id = torch.where(full, settings.end, settings.pad)
        text = positions + 1 - self._prompt[seats] - self._fed[seats]
        over = text >= self._text_limit[seats]
        forced = (inside & ~chooses) | over
        _keep_only(logits, torch.where(over, settings.end_of_turn, next_id), forced)

    @property
    def settings(self) -> SpanSettings:
        """The rules of spans."""
        return self._settings

    def latents(self, seat: int) -> Tensor:
        """The latents of a seat's answer that were fed [latents, D]."""
        return self._latents[seat, : int(self._fed[seat])]

    def _ban(self, logits: Tensor, seats: Tensor, may_end: Tensor) -> None:
        logits.index_fill_(-1, self._banned, _MINUS_INF)
        forbidden = torch.stack((self._spans[seats] >= self._most_spans[seats], ~may_end), dim=-1)
        allowed = logits.index_select(-1, self._borders).masked_fill(forbidden, _MINUS_INF)
        logits.index_copy_(-1, self._borders, allowed)

    def _end_or_latent(self, logits: Tensor, seats: Tensor, chooses: Tensor) -> None:
        """Let rows choose between the end of their span and a latent, as likely as all other tokens together."""
        end = self._settings.end
        ends = logits[:, end].clone()
        others = logits.float()
        others[:, end] = _MINUS_INF
        temperature = self._temperature[seats]
        scale = torch.where(temperature > 0, temperature, 1.0)
        together = (others / scale[:, None]).logsumexp(-1) * scale
        latent = torch.where(temperature > 0, together, others.amax(-1)).to(logits.dtype)
        logits.masked_fill_(chooses[:, None], _MINUS_INF)
        logits[:, end] = torch.where(chooses, ends, logits[:, end])
        logits[:, self._settings.pad] = torch.where(chooses, latent, logits[:, self._settings.pad])


def _keep_only(logits: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Leave nothing but the token of ``ids`` [n] in ``rows`` [n] of logits [n, V]."""
    logits.masked_fill_(rows[:, None], _MINUS_INF)
    own = logits.gather(-1, ids[:, None])
    logits.scatter_(-1, ids[:, None], own.masked_fill(rows[:, None], 0.0))
