"""``model.generate`` with latents: our decoding, with stock preparation, processors, stopping criteria and streaming.

    model.generate(**inputs, custom_generate=latent_generate(backbone, ids, num_latents=4), max_new_tokens=64)

Legend: B rows, T columns, N images, V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.generation import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

from mirage_core.config import FeedNorm, LatentInput, SpanEnd
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, check_settings, latent_modes, sampling_rules, span_rules
from mirage_core.generation.decode_state import DecodeState
from mirage_core.generation.latent_modes import Ints, StepInput
from mirage_core.generation.trajectory import Recorder
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.examples import EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

_IMAGES = {"pixel_values": no_pixels, "image_grid_thw": no_grids}
_REFUSED = {
    "inputs_embeds": "input_ids are needed",
    "pixel_values_videos": "videos are not supported",
    "past_key_values": "every answer starts from its complete prompt",
    "mm_encoder_outputs": "pixel_values and image_grid_thw are needed",
}


@dataclass
class LatentGenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]
    """The output of stock ``generate`` with ``return_dict_in_generate``; ``latents``: a tuple a row, [k, D] a span."""

    latents: tuple[tuple[Tensor, ...], ...] | None = None


def latent_generate(
    backbone: Backbone,
    ids: TokenIds,
    *,
    num_latents: int,
    latents: Literal["on", "off"] = "on",
    end: SpanEnd = "exact",
    max_latents: int = 8,
    max_spans: int = 4,
    bottleneck: Bottleneck = "none",
    latent_input: LatentInput = "hidden_state",
    feed_norm: FeedNorm = "own",
    readout: nn.Module | None = None,
) -> LatentGenerate:
    """Return the ``custom_generate`` of ``backbone.model.generate``: latent spans are decoded as by ``decode``.

    ``bottleneck``, ``latent_input`` and ``feed_norm`` are those the model was trained with (``latent`` in its
    mirage.json); ``readout``: LoadedModel.readout.

    In the sequences a latent is latent_pad, and counts as a token (max_new_tokens, min_length). All options of a
    GenerationConfig for greedy decoding and sampling apply. SettingsError for a name or a folder, whose code is never
    run, and for ids the model does not have.
    """
    if not isinstance(backbone, Backbone) or not isinstance(ids, TokenIds):
        raise SettingsError(
            f"latent_generate takes a Backbone and its TokenIds, got {type(backbone).__name__} and "
            f"{type(ids).__name__}. Take both from load_model(folder); code from a folder or the hub is never run."
        )
    ids.check(backbone.vocab_size)
    settings = DecodeSettings(
        max_new_tokens=1,  # the GenerationConfig decides
        num_latents=num_latents,
        latents=latents,
        end=end,
        max_latents=max_latents,
        max_spans=max_spans,
        bottleneck=bottleneck,
        latent_input=latent_input,
        feed_norm=feed_norm,
    )
    check_settings(settings)
    span_rules(ids, settings, readout=readout)  # refuses what the model lacks now, not at the first answer
    return LatentGenerate(backbone, ids, settings, readout)


@dataclass(frozen=True)
class LatentGenerate:
    """The callable for ``custom_generate`` that ``latent_generate`` returns."""

    backbone: Backbone
    ids: TokenIds
    settings: DecodeSettings
    readout: nn.Module | None = None
    streamer: Any = None
    images: dict[str, Tensor] = field(default_factory=dict)

    def bind_inputs(self, streamer: Any, inputs: dict[str, Any]) -> tuple[LatentGenerate, dict[str, Any]]:
        """Bind the streamer and the images among the inputs; also returns the other inputs (see stock_generate.py)."""
        refused = [f"{name} ({reason})" for name, reason in _REFUSED.items() if inputs.get(name) is not None]
        if refused:
            raise InputError(f"generate with latents got {', '.join(refused)}; leave it out.")
        images = {name: inputs[name] for name in _IMAGES if inputs.get(name) is not None}
        remaining = {name: value for name, value in inputs.items() if name not in _IMAGES}
        return replace(self, streamer=streamer, images=images), remaining

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> LatentGenerateOutput | Tensor:
        """Called by stock ``generate``. InputError for a GenerationConfig that needs more (beam search, say)."""
        if model is not self.backbone.model:
            raise SettingsError("latent_generate got the Backbone of another model; pass the Backbone of this one.")
        _check_config(generation_config)
        run = _GenerateRun(self, input_ids, model_kwargs.get("attention_mask"), generation_config)
        while run.alive.any():
            run.step(logits_processor, stopping_criteria)
        if self.streamer is not None:
            self.streamer.end()
        return run.output() if generation_config.return_dict_in_generate else run.input_ids

    def prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[EncodedPrompt]:
        """The rows of input_ids [B, T] without their padding, each with its images."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [ids[row_mask.bool()].cpu() for ids, row_mask in zip(input_ids, mask, strict=True)]
        pixels, grids = (self.images.get(name, none()) for name, none in _IMAGES.items())
        row_grids = _split_grids(self.backbone, self.ids, rows, grids.cpu())
        patches = [int(row_grid.prod(-1).sum()) for row_grid in row_grids]
        row_pixels = pixels[: sum(patches)].split(patches)
        return [
            EncodedPrompt(ids=ids, pixel_values=pixel_values, grid_thw=row_grid)
            for ids, pixel_values, row_grid in zip(rows, row_pixels, row_grids, strict=True)
        ]


@dataclass
class _StepOutputs:
    """The outputs of stock ``generate`` beside the sequences, one tensor [B, V] a step; None: not requested."""

    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None


class _GenerateRun:
    """A generation in progress; finished rows are carried to the end, as in stock code."""

    def __init__(self, generate: LatentGenerate, input_ids: Tensor, mask: Tensor | None, config: Any) -> None:
        self._generate, self._do_sample = generate, bool(config.do_sample)
        self._rules = sampling_rules(generate.ids, generate.settings)
        self._pad = generate.ids.pad if config.pad_token_id is None else int(config.pad_token_id)
        samples = int(config.num_return_sequences or 1)
        backbone, ids = generate.backbone, generate.ids
        prompts = generate.prompts(input_ids[::samples], None if mask is None else mask[::samples])  # each encoded once
        rules = span_rules(ids, generate.settings, readout=generate.readout)
        batch = collate_prompts(prompts, ids, backbone.position_ids, bottleneck=rules.bottleneck).to(backbone.device)
        self._modes = latent_modes(batch.input_ids, ids, replace(generate.settings, samples=samples))
        self._recorder = Recorder(len(input_ids))
        as_dict = bool(config.return_dict_in_generate)
        self._outputs = _StepOutputs(
            () if as_dict and config.output_scores else None, () if as_dict and config.output_logits else None
        )
        self._state = DecodeState(
            backbone,
            batch,
            samples=samples,
            steps=max(1, config.max_length - input_ids.shape[1]),
            rules=rules,
        )
        self.input_ids = input_ids
        self.alive = np.ones(len(input_ids), dtype=bool)

    def step(self, logits_processor: Any, stopping_criteria: Any) -> None:
        """Run one column: sample, record, stop rows, continue."""
        inputs = self._modes.advance(self._next_tokens(logits_processor))
        rows = np.flatnonzero(self.alive)
        latents = self._state.latent_inputs(inputs)
        self._recorder.record(rows, inputs.select(rows), None, latents[torch.from_numpy(rows).to(latents.device)])
        column = self._column(inputs)
        self.input_ids = torch.cat([self.input_ids, column[:, None]], dim=-1)
        self.alive &= ~stopping_criteria(self.input_ids, self._outputs.scores).cpu().numpy().astype(bool)
        if self._generate.streamer is not None:
            self._generate.streamer.put(column.cpu())
        if self.alive.any():
            self._state.step(inputs, latents)
            self._modes.end_spans(self._state.near_stop(inputs, latents))

    def output(self) -> LatentGenerateOutput:
        """The sequences with everything that was requested."""
        latents = tuple(row.latents for row in self._recorder.trajectories(()))
        scores, logits = self._outputs.scores, self._outputs.logits
        return LatentGenerateOutput(sequences=self.input_ids, scores=scores, logits=logits, latents=latents)

    def _next_tokens(self, logits_processor: Any) -> Ints:
        """The next id of every row [B]; ignored before a latent or a forced latent_end."""
        outputs, modes = self._outputs, self._modes
        if not modes.samples_token().any() and outputs.scores is None and outputs.logits is None:
            return np.zeros(len(self.alive), dtype=np.int64)
        logits = self._generate.backbone.logits(self._state.hidden[:, 0]).float()
        may_end, started = (
            torch.from_numpy(state).to(logits.device) for state in (modes.may_end(), modes.spans_started)
        )
        allowed = self._rules.scores(logits, may_end, started).to(self.input_ids.device)
        scores = logits_processor(self.input_ids, allowed)
        if outputs.scores is not None:
            outputs.scores = (*outputs.scores, scores)
        if outputs.logits is not None:
            outputs.logits = (*outputs.logits, logits)
        if self._do_sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(1)
        else:
            tokens = scores.argmax(-1)
        return np.asarray(tokens.cpu().numpy())

    def _column(self, inputs: StepInput) -> Tensor:
        """The next column of the sequences [B]: tokens, latent_pad for latents, padding for finished rows."""
        ids = np.where(inputs.is_latent, self._generate.ids.latent_pad, inputs.tokens)
        return torch.from_numpy(np.where(self.alive, ids, self._pad)).to(self.input_ids.device)


def _split_grids(backbone: Backbone, ids: TokenIds, rows: list[Tensor], grids: Tensor) -> list[Tensor]:
    """Split grids [N, 3] into those of each row's images, which fill its image_pad tokens in order."""
    tokens = backbone.image_tokens(grids)
    row_grids: list[Tensor] = []
    begin = 0
    for index, row in enumerate(rows):
        expected = int((row == ids.image_pad).sum())
        end = begin
        while sum(tokens[begin:end]) < expected and end < len(tokens):
            end += 1
        if sum(tokens[begin:end]) != expected:
            raise InputError(
                f"Row {index} has {expected} image_pad tokens, the next images are of {tokens[begin:end]} tokens. "
                "Encode text and images together, with one processor."
            )
        row_grids.append(grids[begin:end])
        begin = end
    return row_grids


def _check_config(config: Any) -> None:
    """InputError for everything but greedy decoding and sampling, and for outputs that are not recorded."""
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(
            f"generate with latents is greedy or sampled, got {mode.value}; set num_beams=1, no assistant."
        )
    if config.guidance_scale not in (None, 1):
        raise InputError("guidance_scale needs a second model pass, which has no latents; leave it out.")
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise InputError("output_attentions and output_hidden_states are not recorded with latents; leave them out.")
