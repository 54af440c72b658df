"""An engine as vLLM's is to the plug-in: rows come and go, prompts are computed in chunks, and requests are preempted.

Instead of keys and values it keeps the inputs of every request, and computes the stock model anew on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from mirage_vllm.readout import Readout
from mirage_vllm.seats import Seats
from mirage_vllm.settings import SpanSettings
from mirage_vllm.spans import AnswerSpans, RowOptions
from torch import Tensor

from mirage_core.generation.decode import DecodeSettings
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from tests.latent.tiny import HIDDEN, IDS


def settings_of(settings: DecodeSettings) -> SpanSettings:
    """The same rules of spans, as the plug-in has them."""
    return SpanSettings(
        start=IDS.latent_start,
        pad=IDS.latent_pad,
        end=IDS.latent_end,
        end_of_turn=IDS.end_of_turn,
        banned=(IDS.image_pad, IDS.video_pad, *settings.banned),
        kind="open" if settings.end == "near" else settings.end,
        limit=settings.span_limit,
        max_spans=settings.max_spans,
        fed=settings.latent_input == "hidden_state",
        near=settings.near if settings.end == "near" else None,
    )


@dataclass(eq=False)
class Request:
    """A prompt, its answer so far with latents as ``latent_pad``, and the inputs [D] that are computed."""

    name: str
    prompt: EncodedPrompt
    options: RowOptions
    tokens: list[int]
    seat: int = -1
    inputs: list[Tensor] = field(default_factory=list)
    latents: Tensor | None = None

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.prompt.ids) :]

    @property
    def ended(self) -> bool:
        return bool(self.answer) and self.answer[-1] in (IDS.end_of_turn, IDS.pad)


class Engine:
    """Answers greedily."""

    def __init__(
        self, backbone: Backbone, settings: SpanSettings, running: int, readout: Readout | None = None
    ) -> None:
        self._backbone, self.seats = backbone, Seats(running)
        self.spans = AnswerSpans(settings, 2 * running, HIDDEN, torch.float32, torch.device("cpu"), readout)

    def begin(self, request: Request, computed: int = 0) -> None:
        """Let a request begin, or go on, with so many of its tokens from the prefix cache."""
        request.seat, kept = self.seats.take(request.name)
        prompt = len(request.prompt.ids)
        assert kept or not self.spans.needs_latents(request.tokens, prompt)
        assert computed <= len(request.inputs) and computed < len(request.tokens)
        del request.inputs[computed:]
        self.spans.begin(request.seat, request.tokens, prompt, computed, request.options)

    def leave(self, request: Request) -> None:
        """A request has ended, or is preempted."""
        request.latents = self.spans.latents(request.seat).clone()
        self.seats.leave(request.name)

    @torch.no_grad()
    def step(self, rows: Sequence[tuple[Request, int]]) -> None:
        """Compute so many further tokens of each request, and sample the next one where all are computed."""
        flat, ids, seats, firsts = [], [], [], []
        for request, count in rows:
            at, prompt = len(request.inputs), len(request.prompt.ids)
            chunk = self._embedded(request)[at : at + count]
            answered = max(0, at + count - max(at, prompt))
            firsts += [len(ids)] * answered
            ids += request.tokens[at + count - answered : at + count]
            seats += [request.seat] * answered
            flat += chunk[count - answered :]
            request.inputs += chunk
        if ids:
            index = (torch.tensor(part) for part in (ids, seats, firsts))
            substituted = iter(self.spans.substitute(torch.stack(flat), *index))
            for request, count in rows:
                answered = min(count, max(0, len(request.inputs) - len(request.prompt.ids)))
                for place in range(len(request.inputs) - answered, len(request.inputs)):
                    request.inputs[place] = next(substituted)
        self._sample([request for request, _ in rows])

    def _sample(self, rows: Sequence[Request]) -> None:
        hidden = torch.stack([self.hidden(request) for request in rows])
        seats = torch.tensor([request.seat for request in rows])
        places = torch.tensor([len(request.inputs) - 1 for request in rows])
        last = torch.tensor([request.tokens[len(request.inputs) - 1] for request in rows])
        complete = torch.tensor([len(request.inputs) == len(request.tokens) for request in rows])
        self.spans.advance(seats, last, hidden, complete)
        logits = self._backbone.logits(hidden)
        self.spans.constrain(logits, seats, places)
        for request, token, whole in zip(rows, logits.argmax(-1).tolist(), complete.tolist(), strict=True):
            if whole:
                request.tokens.append(token)

    def _embedded(self, request: Request) -> list[Tensor]:
        prompt = request.prompt
        images = self._backbone.image_features(prompt.pixel_values, prompt.grid_thw)
        asked = self._backbone.embed(prompt.ids[None], images).tokens[0]
        answered = self._backbone.embed_text(torch.tensor([request.answer], dtype=torch.long))[0]
        return [*asked, *answered]

    @torch.no_grad()
    def hidden(self, request: Request) -> Tensor:
        """The last hidden state [D] of a stock model that sees all inputs at once."""
        prompt, count = request.prompt, len(request.inputs)
        asked = self._backbone.position_ids(prompt.ids, torch.tensor([len(prompt.ids)]), prompt.grid_thw)
        following = int(asked.max()) + 1 + torch.arange(max(0, count - len(prompt.ids)))
        positions = torch.cat([asked, following.expand(3, -1)], dim=1)[:, :count]
        found = self._backbone.model.model.language_model(
            inputs_embeds=torch.stack(request.inputs)[None], position_ids=positions[:, None], use_cache=False
        )
        state: Tensor = found.last_hidden_state[0, -1]
        return state
