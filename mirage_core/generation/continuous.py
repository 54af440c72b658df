"""Continuous batching: a decoding in progress that rows join and leave between steps.

Each row has its own length limit, temperature, top-p and random numbers; the rules of spans, the bottleneck and the
inputs of latents are the model's, common to all. What a row decodes does not depend on the others: it is what
``decode`` gives for its prompt alone. Legend: n running rows, m latents, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mirage_core.errors import InputError
from mirage_core.generation.decode import (
    DecodeSettings,
    Trajectory,
    check_settings,
    latent_modes,
    sampling_rules,
    span_rules,
)
from mirage_core.generation.decode_state import DecodeState, check_joinable
from mirage_core.generation.latent_modes import Ints, LatentModes, Mask, StepInput
from mirage_core.generation.trajectory import Recorder
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """How one row is decoded: as the fields of ``DecodeSettings`` of these names.

    ``uniform`` [max_new_tokens]: numbers in [0, 1) that decide its sampled tokens; needed above temperature 0.
    ``latents`` [m, D]: fed in place of its first m latents, counted over all spans; those after them are its own.
    ``top``: so many of the likeliest tokens are told with each sampled one.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    uniform: Tensor | None = None
    latents: Tensor | None = None
    top: int = 0


@dataclass(frozen=True, slots=True)
class RowStep:
    """What one step gave a row: a ``latent`` [D], as it was fed, or a ``token`` of log-probability ``log_prob``.

    A forced token has 0.0. ``answer``: the whole answer, if this token was its last. ``top``: the likeliest tokens that
    a row has asked for, with their log-probabilities, the likeliest first; fewer where all others are banned.
    """

    row: int
    token: int
    log_prob: float
    answer: Trajectory | None
    latent: Tensor | None = None
    top: Top = ()

    @property
    def is_latent(self) -> bool:
        """Whether it is a latent."""
        return self.latent is not None


class ContinuousDecoder:
    """Decodes rows that come and go. Not thread-safe: one thread calls it.

    ``settings``: the model's; the length limit, temperature, top-p and samples in them count for nothing, rows have
    their own. InputError for settings out of range; SettingsError for those that ``decode`` refuses, and under the
    bottleneck latent_only.
    """

    def __init__(
        self, backbone: Backbone, ids: TokenIds, settings: DecodeSettings, *, readout: nn.Module | None = None
    ) -> None:
        ids.check(backbone.vocab_size)
        self._backbone, self._ids, self._settings = backbone, ids, replace(settings, samples=1)
        check_settings(self._settings)
        self._sampling = sampling_rules(ids, settings)
        self._rules = span_rules(ids, settings, readout=readout)
        check_joinable(self._rules.bottleneck)
        self._stop_tokens = (ids.end_of_turn, ids.pad)
        self._recorder = Recorder()
        self._next_row = 0
        self._rows: Ints = np.zeros(0, dtype=np.int64)
        self._own: list[RowSettings] = []
        self._num_tokens, self._num_sampled = np.zeros_like(self._rows), np.zeros_like(self._rows)
        self._num_latents = np.zeros_like(self._rows)
        self._running: tuple[DecodeState, LatentModes] | None = None

    @property
    def running(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def join(self, prompts: Sequence[EncodedPrompt], rows: Sequence[Sequence[RowSettings]]) -> list[list[int]]:
        """Encode prompts, once each, and let their rows run from the next step on; returns the rows' numbers.

        Every prompt has as many rows; prompts of one length waste no memory. InputError for rows that cannot be
        decoded, and for prompts that ``decode`` refuses.
        """
        samples = len(rows[0])
        flat = [row for group in rows for row in group]
        if len(rows) != len(prompts) or any(len(group) != samples for group in rows) or not samples:
            raise InputError(f"got {[len(group) for group in rows]} rows for {len(prompts)} prompts; give each as many")
        for row in flat:
            self._check(row)
        with torch.inference_mode():
            state, modes = self._prefill(prompts, flat, samples)
            if self._running is None:
                self._running = (state, modes)
            else:
                self._running[0].join(state)
                self._running[1].join(modes)
        return self._add(flat, samples)

    def step(self) -> list[RowStep]:
        """Give every running row its next token or latent; rows that end leave. Nothing to do without rows."""
        if self._running is None:
            return []
        state, modes = self._running
        with torch.inference_mode():
            sampled, log_probs, top = self._sample(state, modes)
            inputs = modes.advance(sampled)
            latents = self._fed(state.latent_inputs(inputs), inputs)
            self._recorder.record(self._rows, inputs, log_probs, latents)
            rows, ended = self._rows, self._ended(inputs)
            kept = np.flatnonzero(~ended)
            self._select(kept)  # at once: a row that went on would run out of its positions
            if len(kept):
                self._forward(inputs.select(kept), latents[torch.from_numpy(kept).to(latents.device)])
        with torch.inference_mode(False):
            return self._steps(rows, inputs, log_probs, ended, latents, top)

    def leave(self, rows: Collection[int]) -> None:
        """Drop rows at once, whatever they have decoded; numbers of rows that have ended are ignored."""
        leaving = np.isin(self._rows, list(rows))
        if not leaving.any():
            return
        for row in self._rows[leaving].tolist():
            self._recorder.pop(row, self._stop_tokens)
        with torch.inference_mode():
            self._select(np.flatnonzero(~leaving))

    def _check(self, row: RowSettings) -> None:
        """InputError for settings out of range, and for numbers that are missing or of another length."""
        settings = replace(
            self._settings, max_new_tokens=row.max_new_tokens, temperature=row.temperature, top_p=row.top_p
        )
        check_settings(settings)
        if row.temperature > 0 and (row.uniform is None or row.uniform.shape != (row.max_new_tokens,)):
            got = None if row.uniform is None else tuple(row.uniform.shape)
            raise InputError(
                f"a row at temperature {row.temperature} needs as many uniform numbers as tokens: got {got}, expected "
                f"({row.max_new_tokens},)"
            )
        if row.latents is not None and row.latents.shape[1:] != (self._backbone.hidden_size,):
            raise InputError(
                f"latents in place of a row's own have the shape {tuple(row.latents.shape)}, expected (number, "
                f"{self._backbone.hidden_size})"
            )

    def _prefill(
        self, prompts: Sequence[EncodedPrompt], rows: Sequence[RowSettings], samples: int
    ) -> tuple[DecodeState, LatentModes]:
        """Encode prompts for ``samples`` rows each."""
        backbone, ids = self._backbone, self._ids
        batch = collate_prompts(prompts, ids, backbone.position_ids, bottleneck=self._rules.bottleneck)
        batch = batch.to(backbone.device)
        modes = latent_modes(batch.input_ids, ids, replace(self._settings, samples=samples))
        # a prompt may have started a span of its own
        longest = max(row.max_new_tokens for row in rows)
        steps = longest + (self._settings.max_spans + 1) * modes.num_latents
        return DecodeState(backbone, batch, samples=samples, steps=steps, rules=self._rules), modes

    def _add(self, rows: Sequence[RowSettings], samples: int) -> list[list[int]]:
        """Count new rows, behind the running ones; returns their numbers, prompt by prompt."""
        numbers = np.arange(self._next_row, self._next_row + len(rows))
        self._next_row += len(rows)
        self._recorder.add(numbers.tolist())
        self._own += rows
        none = np.zeros_like(numbers)
        self._rows = np.concatenate([self._rows, numbers])
        self._num_tokens, self._num_sampled, self._num_latents = (
            np.concatenate([counts, none]) for counts in (self._num_tokens, self._num_sampled, self._num_latents)
        )
        return [group.tolist() for group in numbers.reshape(-1, samples)]

    def _sample(self, state: DecodeState, modes: LatentModes) -> tuple[Ints, Tensor, dict[int, Top]]:
        """Sampled ids [n], their log-probabilities [n], and the likeliest by index: rows of one kind at a time."""
        device = self._backbone.device
        tokens, log_probs = np.zeros(len(self._rows), dtype=np.int64), torch.zeros(len(self._rows), device=device)
        samples, top = modes.samples_token(), dict[int, Top]()
        if not samples.any():
            return tokens, log_probs, top
        logits = self._backbone.logits(state.hidden[:, 0])
        may_end, started = (torch.from_numpy(part).to(device) for part in (modes.may_end(), modes.spans_started))
        for (temperature, top_p), group in self._groups().items():
            rows = torch.tensor(group, device=device)
            rules = replace(self._sampling, temperature=temperature)
            uniform = self._next_numbers(group).to(device) if temperature else None
            drawn, log_probs[rows] = rules.draw(
                logits[rows], may_end[rows], started[rows], top_p=top_p, uniform=uniform
            )
            tokens[group] = drawn.cpu().numpy()
            asking = [index for index in group if self._own[index].top]
            if asking:
                top |= self._likeliest(asking, rules.scores(logits[asking], may_end[asking], started[asking]))
        self._num_sampled += samples
        return tokens, log_probs, top

    def _likeliest(self, rows: Sequence[int], scores: Tensor) -> dict[int, Top]:
        """The likeliest tokens of each of these rows, from their scores [len(rows), V]; none that is banned."""
        wanted = [self._own[row].top for row in rows]
        best = scores.topk(min(max(wanted), scores.shape[-1]))
        values = best.values - scores.logsumexp(-1, keepdim=True)
        return {
            row: tuple(pair for pair in zip(ids[:count], own[:count], strict=True) if pair[1] > float("-inf"))
            for row, count, ids, own in zip(rows, wanted, best.indices.tolist(), values.tolist(), strict=True)
        }

    def _fed(self, latents: Tensor, inputs: StepInput) -> Tensor:
        """The next inputs [n, D] of rows in a span: their own ``latents`` [n, D], or those that they were given."""
        given = {
            index: own[int(self._num_latents[index])]
            for index in np.flatnonzero(inputs.is_latent).tolist()
            if (own := self._own[index].latents) is not None and self._num_latents[index] < len(own)
        }
        self._num_latents += inputs.is_latent
        if not given:
            return latents
        rows = torch.tensor(list(given), device=latents.device)
        return latents.index_copy(0, rows, torch.stack(list(given.values())).to(latents))

    def _groups(self) -> dict[tuple[float, float], list[int]]:
        """The indices of the rows of each temperature and top-p; top-p means nothing to greedy rows."""
        groups: dict[tuple[float, float], list[int]] = {}
        for index, row in enumerate(self._own):
            groups.setdefault((row.temperature, row.top_p if row.temperature else 1.0), []).append(index)
        return groups

    def _next_numbers(self, rows: Sequence[int]) -> Tensor:
        """The number that decides each row's token; a row uses its own from left to right, one a sampled token."""
        own = [self._own[row].uniform for row in rows]
        return torch.stack(
            [
                numbers[int(self._num_sampled[row]) % len(numbers)]
                for row, numbers in zip(rows, own, strict=True)
                if numbers is not None
            ]
        )

    def _ended(self, inputs: StepInput) -> Mask:
        """Count the tokens of this step; returns the rows [n] whose last it was."""
        self._num_tokens += ~inputs.is_latent
        limits = np.array([row.max_new_tokens for row in self._own])
        stopped = np.isin(inputs.tokens, self._stop_tokens) | (self._num_tokens >= limits)
        return np.asarray(~inputs.is_latent & stopped)

    def _forward(self, inputs: StepInput, latents: Tensor) -> None:
        """Run every row by its input."""
        assert self._running is not None
        state, modes = self._running
        state.step(inputs, latents)
        modes.end_spans(state.near_stop(inputs, latents))

    def _steps(
        self, rows: Ints, inputs: StepInput, log_probs: Tensor, ended: Mask, latents: Tensor, top: dict[int, Top]
    ) -> list[RowStep]:
        """What the step gave these rows [n], the answers of those that ended with it."""
        values = zip(
            rows.tolist(), inputs.is_latent.tolist(), inputs.tokens.tolist(), inputs.forced.tolist(),
            log_probs.tolist(), ended.tolist(), strict=True,
        )  # fmt: skip
        return [
            RowStep(row, token, 0.0, None, latent=latents[index])
            if is_latent
            else RowStep(
                row,
                token,
                0.0 if forced else log_prob,
                self._recorder.pop(row, self._stop_tokens) if over else None,
                top=() if forced else top.get(index, ()),
            )
            for index, (row, is_latent, token, forced, log_prob, over) in enumerate(values)
        ]

    def _select(self, kept: Ints) -> None:
        """Go on with these rows only, without the columns that only others used."""
        if len(kept) == len(self._rows):
            return
        self._rows = self._rows[kept]
        self._num_tokens, self._num_sampled = self._num_tokens[kept], self._num_sampled[kept]
        self._num_latents = self._num_latents[kept]
        self._own = [self._own[index] for index in kept.tolist()]
        if not len(kept):
            self._running = None
        elif self._running is not None:
            state, modes = self._running
            modes.select(kept)
            state.select(kept)
            state.trim()
