"""Batched decoding with a latent mode for every row.

Prompts are encoded once and repeated for their samples; rows that are done leave the batch. Legend: P prompts,
n rows still going, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.decode_state import Continuation, SpanRules
from mirage_core.generation.interventions import Interventions, SpanStates
from mirage_core.generation.latent_modes import Fed, Ints, LatentModes
from mirage_core.generation.sampling import SamplingRules, draw
from mirage_core.generation.trajectory import Recorder, Trajectory
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

__all__ = ["DecodeSettings", "Observer", "SamplingRules", "Step", "Trajectory", "decode", "sampling_rules"]

_COMPACT_BELOW = 0.8  # rows still going over rows carried, below which the others are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """How answers are drawn.

    ``max_new_tokens`` counts text tokens with latent_start and latent_end, not latents. ``latents`` "off" bans
    latent_start. ``end`` "exact": num_latents a span; "free": the model ends it, after max_latents at the latest.
    ``banned``: further ids that never come. ``bottleneck``: what text after a span may attend to, as the model was
    trained. ``fed``: what latents are; "blank": the embedding of latent_pad, a control.
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
    bottleneck: Bottleneck = "none"
    fed: Literal["own", "blank"] = "own"


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


def span_rules(
    ids: TokenIds, settings: DecodeSettings, interventions: Interventions | None = None, *, record_states: bool = False
) -> SpanRules:
    """What stands in spans and what sees what, under these settings and what is changed of them."""
    changed = interventions or Interventions()
    return SpanRules(
        longest=settings.max_latents if settings.end == "free" else settings.num_latents,
        blank=ids.latent_pad if settings.fed == "blank" else None,
        bottleneck=changed.bottleneck or settings.bottleneck,
        hide_latents=changed.hide_latents,
        hidden=ids.image_pad if changed.image == "hidden" else None,
        kept=record_states or changed.states is not None,
    )


def decode(
    backbone: Backbone,
    prompts: Sequence[EncodedPrompt],
    ids: TokenIds,
    settings: DecodeSettings,
    generator: torch.Generator | None = None,
    observe: Observer | None = None,
    uniform: Tensor | None = None,
    *,
    interventions: Interventions | None = None,
    record_states: bool = False,
) -> list[list[Trajectory]]:
    """Answers to every prompt: outer list prompts, inner list samples (each prompt is encoded once).

    A prompt that ends in latent_start goes on with latents. A row ends with end_of_turn (or the pad token), or at
    max_new_tokens. ``generator`` lives on the model's device. Greedy answers do not depend on the rest of the batch;
    nor do sampled ones with ``uniform`` [prompts * samples, max_new_tokens], numbers in [0, 1) that decide the draws
    of a row one after the other. ``interventions``: what is changed on the way. ``record_states``: answers come with
    ``span_states``, keys and values of their spans, for an exchange in another run. InputError for settings that
    cannot be met, unknown ids, latents in a prompt.
    """
    check_settings(settings)
    _check_uniform(uniform, len(prompts) * settings.samples, settings.max_new_tokens)
    ids.check(backbone.vocab_size)
    if not prompts:
        return []
    with torch.inference_mode():
        run = _Decoding(backbone, prompts, ids, settings, uniform, interventions, record_states)
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
        uniform: Tensor | None,
        interventions: Interventions | None,
        record_states: bool,
    ) -> None:
        self._backbone, self._settings, self._uniform = backbone, settings, uniform
        self._interventions, self._record_states = interventions or Interventions(), record_states
        self._rules = sampling_rules(ids, settings)
        self._stops = (ids.end_of_turn, ids.pad)
        batch = collate_prompts(prompts, ids, backbone.position_ids).to(backbone.device)
        self._modes = latent_modes(batch.input_ids, ids, settings)
        # a prompt may have begun a span of its own
        steps = settings.max_new_tokens + (settings.max_spans + 1) * self._modes.span
        self._rows = np.arange(len(prompts) * settings.samples)
        self._counts = np.zeros_like(self._rows)
        self._interventions.check(len(self._rows))
        self._drawn = np.zeros_like(self._rows)
        self._latents, self._spans = np.zeros_like(self._rows), np.zeros_like(self._rows)
        self._recorder = Recorder(len(self._rows))
        self._alive = np.ones(len(self._rows), dtype=bool)
        rules = span_rules(ids, settings, interventions, record_states=record_states)
        self._going_on = Continuation(backbone, batch, samples=settings.samples, steps=steps, rules=rules)

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
        vectors = self._vectors(fed)
        self._report(fed, logits, log_probs, vectors, observe)
        self._counts += ~fed.latent
        self._latents += fed.latent
        stopped = ~fed.latent & np.isin(fed.tokens, self._stops)
        done = stopped | (self._counts >= self._settings.max_new_tokens)
        self._alive &= ~done
        if not self._alive.any():
            self._rows = self._rows[:0]
            return
        if self._alive.mean() < _COMPACT_BELOW:
            fed, vectors = self._compact(fed, vectors)
        self._going_on.feed(fed, vectors, self._exchanged(fed))
        self._spans += fed.closes

    def _vectors(self, fed: Fed) -> Tensor:
        """What the rows are fed where a latent is due [n, D]; rows that are done are not intervened in."""
        vectors = self._going_on.vectors()
        places = np.flatnonzero(fed.latent & self._alive)
        if self._interventions.latents is None or not len(places):
            return vectors
        at = torch.from_numpy(places).to(vectors.device)
        changed = self._interventions.fed(self._rows[places], self._latents[places], vectors[at])
        return vectors.index_copy(0, at, changed)

    def _exchanged(self, fed: Fed) -> dict[int, SpanStates]:
        """Whose states the spans get that close now, by the place of their row."""
        if self._interventions.states is None:
            return {}
        closing = np.flatnonzero(fed.closes & self._alive).tolist()
        given = ((at, self._interventions.donor(int(self._rows[at]), int(self._spans[at]))) for at in closing)
        return {at: states for at, states in given if states is not None}

    def _report(
        self,
        fed: Fed,
        logits: Tensor | None,
        log_probs: Tensor | None,
        vectors: Tensor,
        observe: Observer | None,
    ) -> None:
        """Record the rows still going, and show them to the observer."""
        if self._record_states:
            for at in np.flatnonzero(fed.closes & self._alive).tolist():
                self._recorder.keep_states(int(self._rows[at]), self._going_on.states(at))
        rows, hidden = self._rows, self._going_on.hidden[:, 0]
        if not self._alive.all():  # rows that are done but still carried
            going = np.flatnonzero(self._alive)
            index = torch.from_numpy(going).to(hidden.device)
            rows, hidden, vectors, fed = rows[going], hidden[index], vectors[index], fed.of(going)
            logits = None if logits is None else logits[index]
            log_probs = None if log_probs is None else log_probs[index]
        self._recorder.record(rows, fed, log_probs, vectors)
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

    def _compact(self, fed: Fed, vectors: Tensor) -> tuple[Fed, Tensor]:
        """Drop the rows that are done from everything carried on, and from what comes next."""
        kept = np.flatnonzero(self._alive)
        self._rows, self._counts, self._alive = self._rows[kept], self._counts[kept], self._alive[kept]
        self._drawn, self._latents, self._spans = self._drawn[kept], self._latents[kept], self._spans[kept]
        self._modes.keep(kept)
        self._going_on.keep(kept)
        return fed.of(kept), vectors[torch.from_numpy(kept).to(vectors.device)]


def check_settings(settings: DecodeSettings) -> None:
    """Refuse settings that mean nothing."""
    for name in ("max_new_tokens", "num_latents", "max_latents", "samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}; it must be 1 or more.")
    if settings.temperature < 0 or not 0 <= settings.top_p <= 1 or settings.max_spans < 0:
        raise InputError(f"temperature and max_spans must not be negative, top_p within 0 and 1: {settings}.")
    if settings.bottleneck not in get_args(Bottleneck) or settings.fed not in ("own", "blank"):
        raise InputError(f"bottleneck is one of {get_args(Bottleneck)}, fed 'own' or 'blank': {settings}.")
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError(f"{settings.samples} samples at temperature 0 are all alike; set a temperature above 0.")


def _check_uniform(uniform: Tensor | None, rows: int, draws: int) -> None:
    """Refuse numbers that are too few or too many."""
    if uniform is not None and uniform.shape != (rows, draws):
        raise InputError(
            f"uniform has the shape {tuple(uniform.shape)}; expected prompts * samples, tokens: {(rows, draws)}."
        )
