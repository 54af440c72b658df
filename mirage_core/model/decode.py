"""Batched decoding with a latent mode for every row.

Prompts are encoded once and repeated for their samples; rows that are done leave the batch. Legend: P prompts,
n rows still going, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.encoded import EncodedPrompt
from mirage_core.latent.layout import collate_prompts
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone
from mirage_core.model.continuation import Continuation
from mirage_core.model.modes import Fed, Ints, LatentModes
from mirage_core.model.sampling import SamplingRules, draw
from mirage_core.model.trajectory import Recorder, Trajectory

__all__ = ["DecodeSettings", "Observer", "SamplingRules", "Step", "Trajectory", "decode", "sampling_rules"]

_COMPACT_BELOW = 0.8  # rows still going over rows carried, below which the others are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """How answers are drawn.

    ``max_new_tokens`` counts text tokens with latent_start and latent_end, not latents. ``latents`` "off" bans
    latent_start. ``end`` "exact": num_latents a span; "free": the model ends it, after max_latents at the latest.
    ``banned``: further ids that never come.
    """

    max_new_tokens: int
    num_latents: int
    temperature: float = 0.0
    top_p: float = 1.0
    latents: Literal["on", "off"] = "on"
    end: Literal["exact", "free"] = "exact"
    max_latents: int = 8
    max_spans: int = 4
    samples: int = 1
    banned: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step as an observer sees it: ``rows`` [n] (prompt * samples + sample) still going, their last hidden states
    [n, D], raw logits [n, V] (None where no row needed them), and what they are fed next."""

    rows: Ints
    hidden: Tensor
    logits: Tensor | None
    fed: Fed


Observer = Callable[[Step], None]


def sampling_rules(ids: TokenIds, settings: DecodeSettings) -> SamplingRules:
    """The distribution of text tokens under these settings; also what ``losses.text_log_probs`` needs."""
    return SamplingRules(
        temperature=settings.temperature,
        banned=(ids.image_pad, ids.video_pad, ids.latent_pad, *settings.banned),
        latent_start=ids.latent_start,
        latent_end=ids.latent_end,
        max_spans=settings.max_spans if settings.latents == "on" else 0,
        free_end=settings.end == "free",
    )


def latent_modes(input_ids: Tensor, ids: TokenIds, settings: DecodeSettings) -> LatentModes:
    """The modes of rows that go on from prompts [P, T], padded on the left.

    InputError where a prompt begins a span and latents are off.
    """
    started = (input_ids == ids.latent_start).sum(1).cpu().numpy().repeat(settings.samples)
    in_span = (input_ids[:, -1] == ids.latent_start).cpu().numpy().repeat(settings.samples)
    if in_span.any() and settings.latents == "off":
        raise InputError("A prompt ends in latent_start, but latents are off.")
    free_end = settings.end == "free"
    span = settings.max_latents if free_end else settings.num_latents
    return LatentModes(in_span, started, span=span, free_end=free_end, start=ids.latent_start, end=ids.latent_end)


def decode(
    backbone: Backbone,
    prompts: Sequence[EncodedPrompt],
    ids: TokenIds,
    settings: DecodeSettings,
    generator: torch.Generator | None = None,
    observe: Observer | None = None,
    uniform: Tensor | None = None,
) -> list[list[Trajectory]]:
    """Answers to every prompt: outer list prompts, inner list samples (each prompt is encoded once).

    A prompt that ends in latent_start goes on with latents. A row ends with end_of_turn (or the pad token), or at
    max_new_tokens. ``generator`` lives on the model's device. Greedy answers do not depend on the rest of the batch;
    nor do sampled ones with ``uniform`` [prompts * samples, max_new_tokens], numbers in [0, 1) that decide the draws
    of a row one after the other. InputError for settings that cannot be met, unknown ids, latents in a prompt.
    """
    check_settings(settings)
    _check_uniform(uniform, len(prompts) * settings.samples, settings.max_new_tokens)
    ids.check(backbone.vocab_size)
    if not prompts:
        return []
    with torch.inference_mode():
        run = _Decoding(backbone, prompts, ids, settings, uniform)
        while run.going():
            run.step(generator, observe)
    with torch.inference_mode(False):  # latents that can be trained with, even if the caller is in inference mode
        flat = run.trajectories()
    return [flat[index : index + settings.samples] for index in range(0, len(flat), settings.samples)]


class _Decoding:
    """A decoding under way: what it goes on from, and for every row its mode and its count."""

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[EncodedPrompt],
        ids: TokenIds,
        settings: DecodeSettings,
        uniform: Tensor | None = None,
    ) -> None:
        self._backbone, self._settings, self._uniform = backbone, settings, uniform
        self._rules = sampling_rules(ids, settings)
        self._stops = (ids.end_of_turn, ids.pad)
        batch = collate_prompts(prompts, ids, backbone.position_ids).to(backbone.device)
        self._modes = latent_modes(batch.input_ids, ids, settings)
        # a prompt may have begun a span of its own
        steps = settings.max_new_tokens + (settings.max_spans + 1) * self._modes.span
        self._rows = np.arange(len(prompts) * settings.samples)
        self._counts = np.zeros_like(self._rows)
        self._drawn = np.zeros_like(self._rows)
        self._recorder = Recorder(len(self._rows))
        self._alive = np.ones(len(self._rows), dtype=bool)
        self._going_on = Continuation(backbone, batch, samples=settings.samples, steps=steps)

    def going(self) -> bool:
        """Whether any row is still going."""
        return len(self._rows) > 0

    def trajectories(self) -> list[Trajectory]:
        """The answers of all rows."""
        return self._recorder.trajectories(self._stops)

    def step(self, generator: torch.Generator | None, observe: Observer | None) -> None:
        """Draw where text goes on, feed every row its token or latent, drop rows that are done."""
        logits, drawn, log_probs = self._draw(generator)
        fed = self._modes.feed(drawn)
        self._report(fed, logits, log_probs, observe)
        self._counts += ~fed.latent
        stopped = ~fed.latent & np.isin(fed.tokens, self._stops)
        done = stopped | (self._counts >= self._settings.max_new_tokens)
        self._alive &= ~done
        if not self._alive.any():
            self._rows = self._rows[:0]
            return
        if self._alive.mean() < _COMPACT_BELOW:
            fed = self._compact(fed)
        self._going_on.feed(fed)

    def _report(self, fed: Fed, logits: Tensor | None, log_probs: Tensor | None, observe: Observer | None) -> None:
        """Record the rows still going, and show them to the observer."""
        rows, hidden = self._rows, self._going_on.hidden[:, 0]
        if not self._alive.all():  # rows that are done but still carried
            going = np.flatnonzero(self._alive)
            index = torch.from_numpy(going).to(hidden.device)
            rows, hidden, fed = rows[going], hidden[index], fed.of(going)
            logits = None if logits is None else logits[index]
            log_probs = None if log_probs is None else log_probs[index]
        self._recorder.record(rows, fed, log_probs, hidden)
        if observe is not None:
            observe(Step(rows, hidden, logits, fed))

    def _draw(self, generator: torch.Generator | None) -> tuple[Tensor | None, Ints, Tensor | None]:
        """Raw logits, ids drawn and their log-probabilities; nothing is computed when no row needs it."""
        if not self._modes.draws().any():
            return None, np.zeros(len(self._rows), dtype=np.int64), None
        device = self._backbone.device
        logits = self._backbone.logits(self._going_on.hidden[:, 0])
        may_end = torch.from_numpy(self._modes.may_end()).to(device)
        scores = self._rules.scores(logits, may_end, torch.from_numpy(self._modes.spans_started).to(device))
        decided = None if self._uniform is None else self._chances(self._uniform)
        chosen, log_probs = draw(scores, self._settings.temperature == 0, self._settings.top_p, generator, decided)
        return logits, chosen.cpu().numpy(), log_probs

    def _chances(self, uniform: Tensor) -> Tensor:
        """The number that decides each row now [n]; a row uses its own from left to right, one a draw."""
        chances = uniform[self._rows, self._drawn % uniform.shape[1]]
        self._drawn += self._modes.draws()
        return chances

    def _compact(self, fed: Fed) -> Fed:
        """Drop the rows that are done from everything carried on."""
        kept = np.flatnonzero(self._alive)
        self._rows, self._counts, self._alive = self._rows[kept], self._counts[kept], self._alive[kept]
        self._drawn = self._drawn[kept]
        self._modes.keep(kept)
        self._going_on.keep(kept)
        return fed.of(kept)


def check_settings(settings: DecodeSettings) -> None:
    """Refuse settings that mean nothing."""
    for name in ("max_new_tokens", "num_latents", "max_latents", "samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}; it must be 1 or more.")
    if settings.temperature < 0 or not 0 <= settings.top_p <= 1 or settings.max_spans < 0:
        raise InputError(f"temperature and max_spans must not be negative, top_p within 0 and 1: {settings}.")
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError(f"{settings.samples} samples at temperature 0 are all alike; set a temperature above 0.")


def _check_uniform(uniform: Tensor | None, rows: int, draws: int) -> None:
    """Refuse numbers that are too few or too many."""
    if uniform is not None and uniform.shape != (rows, draws):
        raise InputError(
            f"uniform has the shape {tuple(uniform.shape)}; expected prompts * samples, tokens: {(rows, draws)}."
        )
