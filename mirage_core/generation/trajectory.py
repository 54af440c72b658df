"""Decoded answers, their recorder, and their text. Legend: n rows, D hidden, k latents of a span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core.generation.interventions import SpanStates
from mirage_core.generation.latent_modes import Ints, StepInput
from mirage_core.latent.tokens import TokenIds
from mirage_core.types import LatentSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One answer: its text tokens (latent_start and latent_end included, latents not) and its latent spans.

    ``spans[i].position``: the span's latents are before token_ids[position]. ``latents``: [k, D] a span, as they were
    input. ``sampled``: False for forced tokens (latent_end of an exact span, or of a span of one latent at the cap).
    ``log_probs``: of sampled tokens, at the temperature (0 counts as 1), after the bans, BEFORE top-p (as
    ``losses.text_log_probs`` recomputes them); 0.0 if forced. That of the latent_end of a free span is of the span's
    length: it holds every choice to go on, and at the cap these alone. ``finished``: the last token is end_of_turn, so
    the answer did not reach the length limit. ``span_states``: keys and values of every span, if decoding records
    them; else empty. ``latent_log_probs``: log-densities [k] a span, where latents were sampled (GaussianLatents).
    """

    token_ids: tuple[int, ...]
    spans: tuple[LatentSpan, ...]
    latents: tuple[Tensor, ...]
    log_probs: tuple[float, ...]
    sampled: tuple[bool, ...]
    finished: bool
    span_states: tuple[SpanStates, ...] = ()
    latent_log_probs: tuple[Tensor, ...] = ()


@dataclass
class _Row:
    """An answer being decoded; ``latents`` by the text position that they precede."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    latents: dict[int, list[Tensor]] = field(default_factory=dict)
    states: list[SpanStates] = field(default_factory=list)
    went_on: float | None = None
    """The log-probability of the choices to go on in the span so far; None: there were none."""

    def add(self, token: int, log_prob: float, *, forced: bool) -> None:
        """Add a text token; the choices that its span has made count as its own."""
        self.tokens.append(token)
        self.sampled.append(not forced or self.went_on is not None)
        self.log_probs.append((0.0 if forced else log_prob) + (self.went_on or 0.0))
        self.went_on = None

    def trajectory(self, stops: tuple[int, ...]) -> Trajectory:
        """The answer so far."""
        return Trajectory(
            token_ids=tuple(self.tokens),
            spans=tuple(LatentSpan(position=at, num_latents=len(span)) for at, span in self.latents.items()),
            latents=tuple(torch.stack(span) for span in self.latents.values()),
            log_probs=tuple(self.log_probs),
            sampled=tuple(self.sampled),
            finished=bool(self.tokens) and self.tokens[-1] in stops,
            span_states=tuple(self.states),
        )


class Recorder:
    """Records the inputs of every row."""

    def __init__(self, rows: int = 0) -> None:
        self._rows: dict[int, _Row] = {}
        self.add(range(rows))
        self._latents: list[tuple[list[_Row], list[int], Tensor]] = []

    def add(self, rows: Iterable[int]) -> None:
        """Begin to record rows of these numbers."""
        self._rows |= {row: _Row() for row in rows}

    def pop(self, row: int, stops: tuple[int, ...]) -> Trajectory:
        """The answer of a row, which is forgotten."""
        self._settle_latents()
        return self._rows.pop(row).trajectory(stops)

    def record(self, rows: Ints, inputs: StepInput, log_probs: Tensor | None, latents: Tensor) -> None:
        """Add one step of unfinished rows [n]; ``latents`` [n, D] are the inputs of those in latent mode."""
        values = [0.0] * len(rows) if log_probs is None else log_probs.tolist()
        is_latent, tokens, forced = inputs.is_latent.tolist(), inputs.tokens.tolist(), inputs.forced.tolist()
        for row, in_span, token, not_sampled, goes_on, log_prob in zip(
            rows.tolist(), is_latent, tokens, forced, inputs.goes_on.tolist(), values, strict=True
        ):
            answer = self._rows[row]
            if not in_span:
                answer.add(token, log_prob, forced=not_sampled)
            elif goes_on:
                answer.went_on = (answer.went_on or 0.0) + log_prob
        self._record_latents(rows, inputs, latents)

    def record_states(self, row: int, states: SpanStates) -> None:
        """Add the states of the span that this row closes now."""
        self._rows[row].states.append(states)

    def trajectories(self, stops: tuple[int, ...]) -> list[Trajectory]:
        """The answers of all rows."""
        self._settle_latents()
        return [row.trajectory(stops) for row in self._rows.values()]

    def _settle_latents(self) -> None:
        """Give the latents of all steps so far to their answers."""
        for answers, positions, vectors in self._latents:
            for answer, position, latent in zip(answers, positions, vectors, strict=True):
                answer.latents.setdefault(position, []).append(latent)
        self._latents = []

    def _record_latents(self, rows: Ints, inputs: StepInput, latents: Tensor) -> None:
        index = np.flatnonzero(inputs.is_latent)
        if not len(index):
            return
        answers = [self._rows[row] for row in rows[index].tolist()]
        vectors = latents[torch.from_numpy(index).to(latents.device)]
        self._latents.append((answers, [len(answer.tokens) for answer in answers], vectors))


def output_text(tokenizer: Any, ids: TokenIds, token_ids: Sequence[int], spans: Sequence[LatentSpan]) -> str:
    """Decode tokens to text, with ``<latents:k>`` for each span; its borders and the end of turn are left out."""
    omitted = {ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad}
    num_latents = {span.position: span.num_latents for span in spans}
    parts: list[str] = []
    run: list[int] = []
    for position in range(len(token_ids) + 1):
        if position in num_latents:
            parts += [tokenizer.decode(run, clean_up_tokenization_spaces=False), f"<latents:{num_latents[position]}>"]
            run = []
        if position < len(token_ids) and token_ids[position] not in omitted:
            run.append(token_ids[position])
    return "".join([*parts, tokenizer.decode(run, clean_up_tokenization_spaces=False)])
