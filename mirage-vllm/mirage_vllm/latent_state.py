"""What Model Runner V2 keeps of requests whose answers hold latents.

Each step it puts latents in the places of their embeddings before the forward pass, and rules the logits after it. The
tokens of a span are latent_pad, so scheduler, cache, prefix cache and streaming see an ordinary answer. Legend: n rows,
m tokens of answers in a step, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from mirage_vllm.readout import load_readout
from mirage_vllm.requests import row_options
from mirage_vllm.seats import Seats
from mirage_vllm.spans import AnswerSpans

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.input_batch import InputBatch

    from mirage_vllm.model import LatentQwen2_5_VL

logger = init_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """A step between its embeddings and its logits: of each row [n] the seat, the last token and its position, and
    whether all of its tokens are computed."""

    seats: Tensor
    last: Tensor
    positions: Tensor
    complete: Tensor


class LatentState(DefaultModelState):
    """The state of a model that imagines."""

    supports_prompt_embeds = False

    def __init__(self, vllm_config: Any, model: LatentQwen2_5_VL, encoder_cache: Any, device: torch.device) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        settings = model.mirage
        assert settings is not None
        readout = None if settings.readout is None else load_readout(settings.readout, self.dtype, device)
        if not self.supports_mm_inputs:
            raise ValueError("a model of Mirage needs its pictures: leave --language-model-only out")
        self._seats = Seats(self.max_num_reqs)
        self.spans = AnswerSpans(
            settings.spans, 2 * self.max_num_reqs, self.inputs_embeds_size, self.dtype, device, readout
        )
        self._seat_of_slot, self._prompt_of_slot = (np.zeros(self.max_num_reqs, dtype=np.int64) for _ in range(2))
        self._step: _Step | None = None
        self.kept: dict[str, Tensor] | None = None
        """Where set, the latents of requests that have left, until they are taken (mirage_vllm.rollouts)."""
        model.latent_state = self

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """A request begins, or goes on after it was preempted."""
        super().add_request(req_index, new_req_data)
        tokens, prompt = new_req_data.prefill_token_ids, new_req_data.prompt_len
        assert tokens is not None and prompt is not None
        seat, kept = self._seats.take(new_req_data.req_id)
        if not kept and self.spans.needs_latents(tokens, prompt):
            raise RuntimeError(f"the latents of the preempted request {new_req_data.req_id} are gone: this is a defect")
        options, fault = row_options(new_req_data.sampling_params)
        if fault is not None:
            logger.error("request %s ends at once: %s", new_req_data.req_id, fault)
        self.spans.begin(seat, tokens, prompt, new_req_data.num_computed_tokens, options)
        self._seat_of_slot[req_index], self._prompt_of_slot[req_index] = seat, prompt

    def remove_request(self, req_id: str) -> None:
        """A request has ended, or is preempted."""
        super().remove_request(req_id)
        if self.kept is not None and (latents := self.latents_of(req_id)) is not None:
            self.kept[req_id] = latents.clone()
        self._seats.leave(req_id)

    @property
    def requests(self) -> Collection[str]:
        """The requests that run."""
        return self._seats.taken.keys()

    def latents_of(self, req_id: str) -> Tensor | None:
        """The latents that a running request was fed [latents, D]; None for one that does not run."""
        seat = self._seats.taken.get(req_id)
        return None if seat is None else self.spans.latents(seat)

    def prepare_inputs_embeds(
        self, scheduled_encoder_inputs: dict[str, list[int]], input_batch: InputBatch, req_states: Any
    ) -> Tensor:
        """The embeddings of a step in the runner's own buffer, with latents in their places."""
        embeddings = super().prepare_inputs_embeds(scheduled_encoder_inputs, input_batch, req_states)
        slots = input_batch.idx_mapping_np
        self._substitute(embeddings, input_batch, slots)
        computed = input_batch.num_computed_tokens_np + input_batch.num_scheduled_tokens
        last = input_batch.logits_indices
        self._step = _Step(
            seats=self._on_device(self._seat_of_slot[slots]),
            last=input_batch.input_ids[last].long(),
            positions=input_batch.positions[last],
            complete=self._on_device(computed >= input_batch.prefill_len_np),
        )
        return embeddings

    def after_forward(self, hidden: Tensor, logits: Tensor | None) -> None:
        """Keep last hidden states [n, D], and rule the logits [n, V], in place, where this rank has them.

        Nothing outside a step: vLLM also computes logits of prompts, and of nothing in particular to warm up.
        """
        step, self._step = self._step, None
        if step is None:
            return
        self.spans.advance(step.seats, step.last, hidden, step.complete)
        if logits is not None:
            self.spans.constrain(logits, step.seats, step.positions)

    def _substitute(self, embeddings: Tensor, batch: InputBatch, slots: np.ndarray) -> None:
        """Put latents in their places [m, D], found on the host: only tokens after a prompt can be latents."""
        computed = batch.num_computed_tokens_np
        asked = np.clip(self._prompt_of_slot[slots] - computed, 0, batch.num_scheduled_tokens)
        counts = batch.num_scheduled_tokens - asked
        if not counts.any():
            return
        starts = np.repeat(batch.query_start_loc_np[: len(slots)] + asked, counts)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        tokens = self._on_device(starts + np.arange(len(firsts)) - firsts)
        seats = self._on_device(np.repeat(self._seat_of_slot[slots], counts))
        ids = batch.input_ids[tokens]
        embeddings[tokens] = self.spans.substitute(embeddings[tokens], ids, seats, self._on_device(firsts))

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)
