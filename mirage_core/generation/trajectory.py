"""Decoded answers, and the record that is kept of them while they grow. Legend: n rows, D hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core.generation.interventions import SpanStates
from mirage_core.generation.latent_modes import Fed, Ints
from mirage_core.latent.tokens import TokenIds
from mirage_core.types import LatentSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One answer: text tokens (latent_start and latent_end among them, latents not), and what stood between.

    ``spans[i].position``: the span's latents stand before token_ids[position]. ``latents``: what was fed,
    [k, D] a span. ``sampled``: False where a token was forced (latent_end of an exact span, or at the cap).
    ``log_probs``: of sampled tokens, under the distribution at the temperature, after the bans, BEFORE
    top-p (what ``losses.text_log_probs`` recomputes); temperature 0 counts as 1; 0.0 where forced.
    ``finished``: it ended with end_of_turn (its last token), not at the length limit. ``span_states``: keys and values
    of every span, as the row computed them, where decoding was asked to record them; else empty.
    """

    token_ids: tuple[int, ...]
    spans: tuple[LatentSpan, ...]
    latents: tuple[Tensor, ...]
    log_probs: tuple[float, ...]
    sampled: tuple[bool, ...]
    finished: bool
    span_states: tuple[SpanStates, ...] = ()


@dataclass
class _Row:
    """A growing answer; ``latents`` by the text position before which they stand."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    latents: dict[int, list[Tensor]] = field(default_factory=dict)
    states: list[SpanStates] = field(default_factory=list)

    def trajectory(self, stops: tuple[int, ...]) -> Trajectory:
        """The answer as it stands."""
        return Trajectory(
            token_ids=tuple(self.tokens),
            spans=tuple(LatentSpan(position=at, num_latents=len(fed)) for at, fed in self.latents.items()),
            latents=tuple(torch.stack(fed) for fed in self.latents.values()),
            log_probs=tuple(self.log_probs),
            sampled=tuple(self.sampled),
            finished=bool(self.tokens) and self.tokens[-1] in stops,
            span_states=tuple(self.states),
        )


class Recorder:
    """Keeps what every row was fed, one row answer each."""

    def __init__(self, rows: int) -> None:
        self._rows = [_Row() for _ in range(rows)]
        self._latents: list[tuple[list[_Row], list[int], Tensor]] = []

    def record(self, rows: Ints, fed: Fed, log_probs: Tensor | None, vectors: Tensor) -> None:
        """One step of the rows [n] still going; where they are in latent mode they are fed vectors [n, D]."""
        drawn = [0.0] * len(rows) if log_probs is None else log_probs.tolist()
        columns = zip(rows.tolist(), fed.latent.tolist(), fed.tokens.tolist(), fed.forced.tolist(), drawn, strict=True)
        for row, latent, token, forced, log_prob in columns:
            if latent:
                continue
            answer = self._rows[row]
            answer.tokens.append(token)
            answer.sampled.append(not forced)
            answer.log_probs.append(0.0 if forced else log_prob)
        self._keep_latents(rows, fed, vectors)

    def keep_states(self, row: int, states: SpanStates) -> None:
        """What the span left behind that this row closes now."""
        self._rows[row].states.append(states)

    def trajectories(self, stops: tuple[int, ...]) -> list[Trajectory]:
        """The answers of all rows."""
        for answers, positions, vectors in self._latents:
            for answer, position, latent in zip(answers, positions, vectors, strict=True):
                answer.latents.setdefault(position, []).append(latent)
        self._latents = []
        return [row.trajectory(stops) for row in self._rows]

    def _keep_latents(self, rows: Ints, fed: Fed, vectors: Tensor) -> None:
        places = np.flatnonzero(fed.latent)
        if not len(places):
            return
        answers = [self._rows[row] for row in rows[places].tolist()]
        chosen = vectors[torch.from_numpy(places).to(vectors.device)]
        self._latents.append((answers, [len(answer.tokens) for answer in answers], chosen))


def output_text(tokenizer: Any, ids: TokenIds, token_ids: Sequence[int], spans: Sequence[LatentSpan]) -> str:
    """Write tokens as text, each span as ``<latents:k>`` in its place; its borders and the end of turn are left out."""
    silent = {ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad}
    marks = {span.position: span.num_latents for span in spans}
    parts: list[str] = []
    run: list[int] = []
    for position in range(len(token_ids) + 1):
        if position in marks:
            parts += [tokenizer.decode(run, clean_up_tokenization_spaces=False), f"<latents:{marks[position]}>"]
            run = []
        if position < len(token_ids) and token_ids[position] not in silent:
            run.append(token_ids[position])
    return "".join([*parts, tokenizer.decode(run, clean_up_tokenization_spaces=False)])
