"""Batched decoding with a latent mode for every row.

Prompts are encoded once and repeated for their samples; finished rows are dropped. Legend: P prompts, n unfinished
rows, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mirage_core.config import FeedNorm, LatentInput, LatentSettings, SpanEnd
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode_state import DecodeState, SpanRules
from mirage_core.generation.interventions import Interventions, SpanStates
from mirage_core.generation.latent_modes import Ints, LatentModes, StepInput
from mirage_core.generation.sampling import SamplingRules
from mirage_core.generation.trajectory import Recorder, Trajectory
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

__all__ = ["DecodeSettings", "Latents", "Observer", "SamplingRules", "Step", "Trajectory", "decode", "sampling_rules"]

Latents = Literal["on", "off"]

_COMPACT_BELOW = 0.8  # finished rows are dropped when fewer than this share of the rows is unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """How answers are decoded.

    ``max_new_tokens`` counts text tokens with latent_start and latent_end, not latents. ``latents`` "off" bans
    latent_start. ``end`` "exact": num_latents a span, then latent_end; "open": then any token; "free": the model ends
    it, after at most max_latents; "near": after a latent within ``near`` of the readout's stop vector, or max_latents.
    ``banned``: further ids with probability 0. ``bottleneck``: what text after a span may attend to, as in training.
    ``latent_input``, ``feed_norm``: what is fed as a latent, and at which norm, as in training.
    """

    max_new_tokens: int
    num_latents: int
    temperature: float = 0.0
    top_p: float = 1.0
    latents: Latents = "on"
    end: SpanEnd = "exact"
    max_latents: int = 8
    max_spans: int = 4
    samples: int = 1
    banned: tuple[int, ...] = ()
    bottleneck: Bottleneck = "none"
    latent_input: LatentInput = "hidden_state"
    feed_norm: FeedNorm = "own"
    near: float = 0.02

    @classmethod
    def of(cls, latent: LatentSettings, *, max_new_tokens: int, **overrides: Any) -> DecodeSettings:
        """Decode spans as a recipe's latent settings say; ``overrides``: any other field."""
        settings = cls(
            max_new_tokens=max_new_tokens,
            num_latents=latent.num_latents,
            end=latent.end,
            max_latents=latent.max_latents,
            max_spans=latent.max_spans,
            bottleneck=latent.bottleneck,
            latent_input=latent.input,
            feed_norm=latent.feed_norm,
            near=latent.near,
        )
        return replace(settings, **overrides)

    @property
    def span_limit(self) -> int:
        """The largest number of latents of a span."""
        return self.max_latents if self.end in ("free", "near") else self.num_latents


@dataclass(frozen=True, slots=True)
class Step:
    """One step for an observer: the unfinished ``rows`` [n] (prompt * samples + sample), their last hidden states
    [n, D], raw logits [n, V] (None if no row samples a token), and their next ``inputs``."""

    rows: Ints
    hidden: Tensor
    logits: Tensor | None
    inputs: StepInput


Observer = Callable[[Step], None]


def sampling_rules(ids: TokenIds, settings: DecodeSettings) -> SamplingRules:
    """The distribution of text tokens under these settings; also what ``log_probs.text_log_probs`` needs."""
    return SamplingRules(
        temperature=settings.temperature,
        banned=(ids.image_pad, ids.video_pad, ids.latent_pad, *ids.latent_queries, *settings.banned),
        latent_start=ids.latent_start,
        latent_end=ids.latent_end,
        max_spans=settings.max_spans if settings.latents == "on" else 0,
        free_end=settings.end == "free",
        open_end=settings.end in ("open", "near"),
        max_latents=settings.span_limit,
    )


def latent_modes(input_ids: Tensor, ids: TokenIds, settings: DecodeSettings) -> LatentModes:
    """The modes of rows that continue prompts [P, T], padded on the left.

    InputError if a prompt starts a span and latents are off.
    """
    started = (input_ids == ids.latent_start).sum(1).cpu().numpy().repeat(settings.samples)
    in_span = (input_ids[:, -1] == ids.latent_start).cpu().numpy().repeat(settings.samples)
    if in_span.any() and settings.latents == "off":
        raise InputError("A prompt ends in latent_start, but latents are off.")
    return LatentModes(
        in_span,
        started,
        num_latents=settings.span_limit,
        end_kind="open" if settings.end == "near" else settings.end,
        start=ids.latent_start,
        end=ids.latent_end,
    )


def span_rules(
    ids: TokenIds,
    settings: DecodeSettings,
    interventions: Interventions | None = None,
    *,
    record_states: bool = False,
    readout: nn.Module | None = None,
) -> SpanRules:
    """The inputs of spans and the attention rules, under these settings and interventions.

    A bottleneck is about spans: with latents off there is none. SettingsError for query tokens, a head that chooses
    codes, and a stop vector that the settings ask for and the model lacks.
    """
    latent_input: LatentInput = "hidden_state" if settings.latents == "off" else settings.latent_input
    if latent_input == "code" and readout is None:
        raise SettingsError(
            "latent_input is code, and the model has no head that chooses codes: load a model that was trained so "
            "(load_model reads its head), and pass LoadedModel.readout"
        )
    if settings.end == "near" and settings.latents == "on" and getattr(readout, "stop", None) is None:
        raise SettingsError(
            "end is near, and the model has no stop vector: train it with lvr.stop vector, or set latent.end to exact, "
            "open or free"
        )
    changes = interventions or Interventions()
    bottleneck = changes.bottleneck or ("none" if settings.latents == "off" else settings.bottleneck)
    return SpanRules(
        num_latents=settings.span_limit,
        span_tokens=ids.in_span(latent_input, settings.span_limit),
        readout=readout if latent_input in ("hidden_state", "code") else None,
        near=settings.near if settings.end == "near" and settings.latents == "on" else None,
        feed_norm=settings.feed_norm,
        bottleneck=bottleneck,
        hide_latents=changes.hide_latents,
        hidden_token=ids.image_pad if changes.image == "hidden" else None,
        start_token=ids.latent_start if bottleneck == "image" else None,
        needs_states=record_states or changes.states is not None,
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
    readout: nn.Module | None = None,
) -> list[list[Trajectory]]:
    """Decode answers to every prompt: outer list prompts, inner list samples (each prompt is encoded once).

    A prompt that ends in latent_start is continued by latents. A row ends with end_of_turn (or the pad token), or at
    max_new_tokens. ``generator`` is on the model's device. Greedy answers do not depend on the rest of the batch; nor
    do sampled ones with ``uniform`` [prompts * samples, max_new_tokens]: numbers in [0, 1) that decide the sampled
    tokens of a row one after the other. ``record_states``: trajectories have ``span_states``, for interventions in
    another run. ``readout``: LoadedModel.readout. InputError for settings that cannot be met,
    unknown ids, latents in a prompt.
    """
    check_settings(settings)
    _check_uniform(uniform, len(prompts) * settings.samples, settings.max_new_tokens)
    ids.check(backbone.vocab_size)
    if not prompts:
        return []
    with torch.inference_mode():
        run = _DecodeRun(backbone, prompts, ids, settings, uniform, interventions, record_states, readout)
        while run.unfinished():
            run.step(generator, observe)
    with torch.inference_mode(False):  # latents are inputs of training, even if the caller is in inference mode
        flat = run.trajectories()
    return [flat[index : index + settings.samples] for index in range(0, len(flat), settings.samples)]


class _DecodeRun:
    """A decoding in progress: the state that is continued, and the mode and counts of every row."""

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[EncodedPrompt],
        ids: TokenIds,
        settings: DecodeSettings,
        uniform: Tensor | None,
        interventions: Interventions | None,
        record_states: bool,
        readout: nn.Module | None,
    ) -> None:
        self._backbone, self._settings, self._uniform = backbone, settings, uniform
        self._interventions, self._record_states = interventions or Interventions(), record_states
        self._rules = sampling_rules(ids, settings)
        self._stop_tokens = (ids.end_of_turn, ids.pad)
        rules = span_rules(ids, settings, interventions, record_states=record_states, readout=readout)
        batch = collate_prompts(prompts, ids, backbone.position_ids, bottleneck=rules.bottleneck).to(backbone.device)
        self._modes = latent_modes(batch.input_ids, ids, settings)
        # a prompt may have started a span of its own
        steps = settings.max_new_tokens + (settings.max_spans + 1) * self._modes.num_latents
        self._rows = np.arange(len(prompts) * settings.samples)
        self._interventions.check(len(self._rows))
        self._num_tokens, self._num_sampled = np.zeros_like(self._rows), np.zeros_like(self._rows)
        self._num_latents, self._num_spans = np.zeros_like(self._rows), np.zeros_like(self._rows)
        self._recorder = Recorder(len(self._rows))
        self._alive = np.ones(len(self._rows), dtype=bool)
        self._state = DecodeState(backbone, batch, samples=settings.samples, steps=steps, rules=rules)

    def unfinished(self) -> bool:
        """Whether any row is unfinished."""
        return len(self._rows) > 0

    def trajectories(self) -> list[Trajectory]:
        """The answers of all rows."""
        return self._recorder.trajectories(self._stop_tokens)

    def step(self, generator: torch.Generator | None, observe: Observer | None) -> None:
        """Sample tokens, run every row by its token or latent, and drop finished rows."""
        logits, sampled, log_probs = self._sample(generator)
        inputs = self._modes.advance(sampled)
        latents = self._latent_inputs(inputs)
        self._record(inputs, logits, log_probs, latents, observe)
        self._num_tokens += ~inputs.is_latent
        self._num_latents += inputs.is_latent
        stopped = ~inputs.is_latent & np.isin(inputs.tokens, self._stop_tokens)
        self._alive &= ~(stopped | (self._num_tokens >= self._settings.max_new_tokens))
        if not self._alive.any():
            self._rows = self._rows[:0]
            return
        if self._alive.mean() < _COMPACT_BELOW:
            inputs, latents = self._drop_finished(inputs, latents)
        self._state.step(inputs, latents, self._replaced_states(inputs))
        self._modes.end_spans(self._state.near_stop(inputs, latents))
        self._num_spans += inputs.closes_span

    def _latent_inputs(self, inputs: StepInput) -> Tensor:
        """The next inputs of rows in latent mode [n, D]; interventions apply to unfinished rows only."""
        latents = self._state.latent_inputs(inputs)
        selected = np.flatnonzero(inputs.is_latent & self._alive)
        if self._interventions.latents is None or not len(selected):
            return latents
        index = torch.from_numpy(selected).to(latents.device)
        numbers = self._num_latents[selected]
        replacement = self._interventions.replace_latents(self._rows[selected], numbers, latents[index])
        return latents.index_copy(0, index, replacement)

    def _replaced_states(self, inputs: StepInput) -> dict[int, SpanStates]:
        """The states that replace those of the spans that close now, by index of the row."""
        if self._interventions.states is None:
            return {}
        closing = np.flatnonzero(inputs.closes_span & self._alive).tolist()
        donors = ((at, self._interventions.donor(int(self._rows[at]), int(self._num_spans[at]))) for at in closing)
        return {at: states for at, states in donors if states is not None}

    def _record(
        self,
        inputs: StepInput,
        logits: Tensor | None,
        log_probs: Tensor | None,
        latents: Tensor,
        observe: Observer | None,
    ) -> None:
        """Record the unfinished rows, and show them to the observer."""
        if self._record_states:
            for at in np.flatnonzero(inputs.closes_span & self._alive).tolist():
                self._recorder.record_states(int(self._rows[at]), self._state.span_states(at))
        rows, hidden = self._rows, self._state.hidden[:, 0]
        if not self._alive.all():  # finished rows that are not dropped yet
            alive = np.flatnonzero(self._alive)
            index = torch.from_numpy(alive).to(hidden.device)
            rows, hidden, latents, inputs = rows[alive], hidden[index], latents[index], inputs.select(alive)
            logits = None if logits is None else logits[index]
            log_probs = None if log_probs is None else log_probs[index]
        self._recorder.record(rows, inputs, log_probs, latents)
        if observe is not None:
            observe(Step(rows, hidden, logits, inputs))

    def _sample(self, generator: torch.Generator | None) -> tuple[Tensor | None, Ints, Tensor | None]:
        """Raw logits, sampled ids and their log-probabilities; not computed if no row needs them."""
        if not self._modes.samples_token().any():
            return None, np.zeros(len(self._rows), dtype=np.int64), None
        device = self._backbone.device
        logits = self._backbone.logits(self._state.hidden[:, 0])
        may_end = torch.from_numpy(self._modes.may_end()).to(device)
        started = torch.from_numpy(self._modes.spans_started).to(device)
        numbers = None if self._uniform is None else self._next_numbers(self._uniform)
        tokens, log_probs = self._rules.draw(
            logits, may_end, started, top_p=self._settings.top_p, generator=generator, uniform=numbers
        )
        return logits, tokens.cpu().numpy(), log_probs

    def _next_numbers(self, uniform: Tensor) -> Tensor:
        """The number that decides each row's token [n]; a row uses its own from left to right, one a sampled token."""
        numbers = uniform[self._rows, self._num_sampled % uniform.shape[1]]
        self._num_sampled += self._modes.samples_token()
        return numbers

    def _drop_finished(self, inputs: StepInput, latents: Tensor) -> tuple[StepInput, Tensor]:
        """Drop finished rows from the state, the counts, and the next inputs."""
        alive = np.flatnonzero(self._alive)
        self._rows, self._alive = self._rows[alive], self._alive[alive]
        self._num_tokens, self._num_sampled = self._num_tokens[alive], self._num_sampled[alive]
        self._num_latents, self._num_spans = self._num_latents[alive], self._num_spans[alive]
        self._modes.select(alive)
        self._state.select(alive)
        return inputs.select(alive), latents[torch.from_numpy(alive).to(latents.device)]


def check_settings(settings: DecodeSettings) -> None:
    """InputError for settings out of range."""
    for name in ("max_new_tokens", "num_latents", "max_latents", "samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}; it must be 1 or more.")
    if settings.temperature < 0 or not 0 <= settings.top_p <= 1 or settings.max_spans < 0:
        raise InputError(f"temperature and max_spans must not be negative, top_p within 0 and 1: {settings}.")
    for name, choices in (("bottleneck", Bottleneck), ("latent_input", LatentInput), ("feed_norm", FeedNorm)):
        if getattr(settings, name) not in get_args(choices):
            raise InputError(f"{name} is one of {get_args(choices)}: got {getattr(settings, name)!r}.")
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError(f"{settings.samples} samples at temperature 0 are all the same; set a temperature above 0.")


def _check_uniform(uniform: Tensor | None, rows: int, tokens: int) -> None:
    """InputError for a wrong number of uniform numbers."""
    if uniform is not None and uniform.shape != (rows, tokens):
        raise InputError(
            f"uniform has the shape {tuple(uniform.shape)}; expected prompts * samples, tokens: {(rows, tokens)}."
        )
