"""``model.generate`` with latents: stock preparation, processors, stopping criteria and streaming round our loop.

    model.generate(**inputs, custom_generate=latent_generate(backbone, ids, num_latents=4), max_new_tokens=64)

Legend: B rows, T columns, N images, V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers.generation import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, check_settings, latent_modes, sampling_rules, span_rules
from mirage_core.generation.decode_state import Continuation
from mirage_core.generation.latent_modes import Fed
from mirage_core.generation.trajectory import Recorder
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.examples import EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

_IMAGES = {"pixel_values": no_pixels, "image_grid_thw": no_grids}
_REFUSED = {
    "inputs_embeds": "input_ids are needed",
    "pixel_values_videos": "there are no videos with latents",
    "past_key_values": "every answer starts from its whole prompt",
    "mm_encoder_outputs": "pixel_values and image_grid_thw are needed",
}


@dataclass
class LatentGenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]
    """What stock ``generate`` returns with ``return_dict_in_generate``; ``latents``: a tuple a row, [k, D] a span."""

    latents: tuple[tuple[Tensor, ...], ...] | None = None


def latent_generate(
    backbone: Backbone,
    ids: TokenIds,
    *,
    num_latents: int,
    latents: Literal["on", "off"] = "on",
    end: Literal["exact", "free"] = "exact",
    max_latents: int = 8,
    max_spans: int = 4,
    bottleneck: Bottleneck = "none",
    fed: Literal["own", "blank"] = "own",
) -> LatentGenerate:
    """The ``custom_generate`` of ``backbone.model.generate``: spans of latents as ``decode`` makes them.

    ``bottleneck`` and ``fed`` are those the model was trained with (``latent`` in its mirage.json).

    In the sequences a latent stands as latent_pad, and counts as a token (max_new_tokens, min_length). Everything of
    a GenerationConfig that draws one token after the other is honoured. SettingsError for a name or a folder, which
    would run code from there, and for ids the model does not have.
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
        fed=fed,
    )
    check_settings(settings)
    return LatentGenerate(backbone, ids, settings)


@dataclass(frozen=True)
class LatentGenerate:
    """A callable for ``custom_generate``; made by ``latent_generate``."""

    backbone: Backbone
    ids: TokenIds
    settings: DecodeSettings
    streamer: Any = None
    images: dict[str, Tensor] = field(default_factory=dict)

    def take(self, streamer: Any, inputs: dict[str, Any]) -> tuple[LatentGenerate, dict[str, Any]]:
        """The same with a streamer and the pictures among the inputs, and the other inputs (see stock_generate.py)."""
        refused = [f"{name} ({why})" for name, why in _REFUSED.items() if inputs.get(name) is not None]
        if refused:
            raise InputError(f"generate with latents was given {', '.join(refused)}; leave it out.")
        images = {name: inputs[name] for name in _IMAGES if inputs.get(name) is not None}
        left = {name: value for name, value in inputs.items() if name not in _IMAGES}
        return replace(self, streamer=streamer, images=images), left

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> LatentGenerateOutput | Tensor:
        """Called by stock ``generate``. InputError for a GenerationConfig that latents cannot follow (beams, say)."""
        if model is not self.backbone.model:
            raise SettingsError("latent_generate was made for another model; give it the Backbone of this one.")
        _check(generation_config)
        run = _Run(self, input_ids, model_kwargs.get("attention_mask"), generation_config)
        while run.going.any():
            run.step(logits_processor, stopping_criteria)
        if self.streamer is not None:
            self.streamer.end()
        return run.output() if generation_config.return_dict_in_generate else run.input_ids

    def prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[EncodedPrompt]:
        """The rows of input_ids [B, T] without their padding, each with its pictures."""
        held = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [row[kept.bool()].cpu() for row, kept in zip(input_ids, held, strict=True)]
        pixels, grids = (self.images.get(name, none()) for name, none in _IMAGES.items())
        images = _images_of(self.backbone, self.ids, rows, grids.cpu())
        patches = [int(shown.prod(-1).sum()) for shown in images]
        pieces = pixels[: sum(patches)].split(patches)
        return [
            EncodedPrompt(ids=row, pixel_values=piece, grid_thw=shown)
            for row, piece, shown in zip(rows, pieces, images, strict=True)
        ]


@dataclass
class _Kept:
    """What stock ``generate`` returns beside the sequences, one tensor [B, V] a step; None: not asked for."""

    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None


class _Run:
    """A generation under way; every row is carried to the end, as in stock code."""

    def __init__(self, made: LatentGenerate, input_ids: Tensor, mask: Tensor | None, config: Any) -> None:
        self._made, self._sampled = made, bool(config.do_sample)
        self._rules = sampling_rules(made.ids, made.settings)
        self._pad = made.ids.pad if config.pad_token_id is None else int(config.pad_token_id)
        samples = int(config.num_return_sequences or 1)
        prompts = made.prompts(input_ids[::samples], None if mask is None else mask[::samples])  # each encoded once
        batch = collate_prompts(prompts, made.ids, made.backbone.position_ids).to(made.backbone.device)
        self._modes = latent_modes(batch.input_ids, made.ids, replace(made.settings, samples=samples))
        self._recorder = Recorder(len(input_ids))
        asked = bool(config.return_dict_in_generate)
        self._kept = _Kept(
            () if asked and config.output_scores else None, () if asked and config.output_logits else None
        )
        self._rows = Continuation(
            made.backbone,
            batch,
            samples=samples,
            steps=max(1, config.max_length - input_ids.shape[1]),
            rules=span_rules(made.ids, made.settings),
        )
        self.input_ids = input_ids
        self.going = np.ones(len(input_ids), dtype=bool)

    def step(self, logits_processor: Any, stopping_criteria: Any) -> None:
        """One column: draw where text goes on, record, stop rows, feed."""
        fed = self._modes.feed(self._draw(logits_processor))
        rows = np.flatnonzero(self.going)
        vectors = self._rows.vectors()
        self._recorder.record(rows, fed.of(rows), None, vectors[torch.from_numpy(rows).to(vectors.device)])
        column = self._column(fed)
        self.input_ids = torch.cat([self.input_ids, column[:, None]], dim=-1)
        self.going &= ~stopping_criteria(self.input_ids, self._kept.scores).cpu().numpy().astype(bool)
        if self._made.streamer is not None:
            self._made.streamer.put(column.cpu())
        if self.going.any():
            self._rows.feed(fed, vectors)

    def output(self) -> LatentGenerateOutput:
        """Sequences with what else was asked for."""
        latents = tuple(row.latents for row in self._recorder.trajectories(()))
        kept = self._kept
        return LatentGenerateOutput(sequences=self.input_ids, scores=kept.scores, logits=kept.logits, latents=latents)

    def _draw(self, logits_processor: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The next id of every row [B]; meaningless where a latent or a forced latent_end comes."""
        kept, modes = self._kept, self._modes
        if not modes.draws().any() and kept.scores is None and kept.logits is None:
            return np.zeros(len(self.going), dtype=np.int64)
        logits = self._made.backbone.logits(self._rows.hidden[:, 0]).float()
        may_end, started = (
            torch.from_numpy(state).to(logits.device) for state in (modes.may_end(), modes.spans_started)
        )
        allowed = self._rules.scores(logits, may_end, started).to(self.input_ids.device)
        scores = logits_processor(self.input_ids, allowed)
        if kept.scores is not None:
            kept.scores = (*kept.scores, scores)
        if kept.logits is not None:
            kept.logits = (*kept.logits, logits)
        if self._sampled:
            chosen = torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(1)
        else:
            chosen = scores.argmax(-1)
        return chosen.cpu().numpy()

    def _column(self, fed: Fed) -> Tensor:
        """The next column of the sequences [B]: tokens, latent_pad for latents, padding for rows that have ended."""
        ids = np.where(fed.latent, self._made.ids.latent_pad, fed.tokens)
        return torch.from_numpy(np.where(self.going, ids, self._pad)).to(self.input_ids.device)


def _images_of(backbone: Backbone, ids: TokenIds, rows: list[Tensor], grids: Tensor) -> list[Tensor]:
    """The grids [n, 3] of each row's pictures: they come in order, and fill its image_pad tokens."""
    tokens = backbone.image_tokens(grids)
    found: list[Tensor] = []
    begin = 0
    for index, row in enumerate(rows):
        wanted = int((row == ids.image_pad).sum())
        end = begin
        while sum(tokens[begin:end]) < wanted and end < len(tokens):
            end += 1
        if sum(tokens[begin:end]) != wanted:
            raise InputError(
                f"Row {index} has {wanted} image_pad tokens, the next images are of {tokens[begin:end]} tokens. "
                "Encode text and images together, with one processor."
            )
        found.append(grids[begin:end])
        begin = end
    return found


def _check(config: Any) -> None:
    """Refuse what does not draw one token after the other, and what is not recorded."""
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(
            f"generate with latents is greedy or sampled, got {mode.value}; set num_beams=1, no assistant."
        )
    if config.guidance_scale not in (None, 1):
        raise InputError("guidance_scale needs a second model pass that knows no latents; leave it out.")
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise InputError("output_attentions and output_hidden_states are not kept with latents; leave them out.")
