"""An answer computed anew from what a bottleneck means: the stock model, one row, all of it at once, a float mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.generation.decode import Trajectory
from mirage_core.latent.bottleneck import Segment
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from tests.latent.tiny import IDS


@dataclass
class Row:
    """Inputs, positions, segments, and the answer's text tokens with the place of the state that tells of each."""

    inputs: list[Tensor]
    positions: list[Tensor]
    segments: list[Segment]
    predicted: list[tuple[int, int]]

    def add(self, vector: Tensor, position: int, segment: Segment) -> None:
        self.inputs.append(vector)
        self.positions.append(torch.tensor([position] * 3))
        self.segments.append(segment)


def recomputed(
    backbone: Backbone,
    prompt: EncodedPrompt,
    answer: Trajectory,
    table: Tensor,
    *,
    blank: bool = False,
    fed: Sequence[Tensor] | None = None,
    feed: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Latents [k, D] of every span, and raw logits [V] of every text token, of an answer whose tokens are known.

    Every latent takes a pass over all tokens before it. ``table`` [q, k]: which segment sees which. ``blank``: spans
    hold blank tokens; ``fed``: they hold these latents [k, D]; ``feed`` makes what is fed of the last hidden state [D]
    and the number of the latent in its span.
    """
    row, latents = _prompt(backbone, prompt, table), list[Tensor]()
    spans = {span.position: span.num_latents for span in answer.spans}
    next_position = int(torch.stack(row.positions).max()) + 1
    segment, told_by = Segment.BEFORE, len(row.inputs) - 1
    for place, token in enumerate(answer.token_ids):
        if place in spans:
            latents_given = None if fed is None else fed[len(latents)]
            span: list[Tensor] = []
            for index in range(spans[place]):
                if latents_given is not None:
                    span.append(latents_given[index])
                elif feed is not None:
                    span.append(feed(_states(backbone, row, table)[-1], index))
                else:
                    span.append(_embedding(backbone, IDS.latent_pad) if blank else _states(backbone, row, table)[-1])
                row.add(span[-1], next_position, Segment.LATENT)
                next_position += 1
            told_by, segment = len(row.inputs) - 1, Segment.AFTER
            latents.append(torch.stack(span))
            if (~table[Segment.AFTER, Segment.LATENT]) & table[Segment.AFTER, Segment.REENCODED]:
                for offset, vector in enumerate(span):
                    row.add(vector, next_position - len(span) + offset, Segment.REENCODED)
        row.predicted.append((told_by, token))
        opens = _hides_images(table) and token == IDS.latent_start
        row.add(_embedding(backbone, token), next_position, Segment.LATENT if opens else segment)
        told_by, next_position = len(row.inputs) - 1, next_position + 1
    states = _states(backbone, row, table)
    return latents, [backbone.logits(states[at]) for at, _ in row.predicted]


def _hides_images(table: Tensor) -> bool:
    """Whether text may not see the image, which then is a segment of its own; what opens a span counts as a latent."""
    return not bool(table[Segment.BEFORE, Segment.IMAGE])


def _prompt(backbone: Backbone, prompt: EncodedPrompt, table: Tensor) -> Row:
    images = backbone.image_features(prompt.pixel_values, prompt.grid_thw)
    inputs = backbone.embed(prompt.ids[None], images).tokens[0]
    positions = backbone.position_ids(prompt.ids, torch.tensor([len(prompt.ids)]), prompt.grid_thw)
    own = {IDS.image_pad: Segment.IMAGE, IDS.latent_start: Segment.LATENT} if _hides_images(table) else {}
    segments = [own.get(int(token), Segment.BEFORE) for token in prompt.ids]
    return Row(list(inputs), list(positions.T), segments, [])


def _embedding(backbone: Backbone, token: int) -> Tensor:
    return backbone.embed_text(torch.tensor([[token]]))[0, 0]


def _states(backbone: Backbone, row: Row, table: Tensor) -> Tensor:
    """Last hidden states [T, D]: a token sees, of what stands before it and of itself, what its segment may see."""
    segments = torch.tensor([int(segment) for segment in row.segments])
    allowed = table[segments][:, segments].tril()
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    found = backbone.model.model.language_model(
        inputs_embeds=torch.stack(row.inputs)[None],
        attention_mask=mask[None, None],
        position_ids=torch.stack(row.positions, dim=1)[:, None],
        use_cache=False,
    )
    states: Tensor = found.last_hidden_state[0]
    return states
