"""Monet's forwards: latents rolled out (pass A), then fed with gradient in one parallel pass (pass B).

Legend: B rows, T columns, n latents of all rows, m aligned tokens of all rows, L layers, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.forward.forward import (
    check_aligned,
    embed_batch,
    latent_cells,
    rollout,
    single_pass,
    text_forward,
)
from mirage_core.model.forward.layer_states import LayerStates
from mirage_core.training.monet.sight import AuxiliarySight


@dataclass(frozen=True, slots=True)
class StudentOutput:
    """Pass B: ``hidden`` [B, T, D] and ``states`` [L + 1, m, D] of the aligned tokens; ``latents`` [n, D] of pass A.

    ``rows`` [m]: the rows of the aligned tokens.
    """

    hidden: Tensor
    states: Tensor
    latents: Tensor
    rows: Tensor


def observed_cells(batch: LatentBatch) -> tuple[Tensor, Tensor]:
    """Return rows and columns [m] of the observed tokens, row by row."""
    if batch.observed is None:
        none = torch.empty(0, dtype=torch.long, device=batch.input_ids.device)
        return none, none
    rows, columns = batch.observed.nonzero(as_tuple=True)
    return rows, columns


def span_cells(batch: LatentBatch) -> tuple[Tensor, Tensor]:
    """Return rows and columns [n] of all latents, row by row."""
    return latent_cells(batch, batch.span_lengths.tolist())


def student_forward(
    backbone: Backbone,
    batch: LatentBatch,
    cells: tuple[Tensor, Tensor],
    sight: AuxiliarySight | None = None,
    *,
    checkpointing: bool = False,
) -> StudentOutput:
    """Roll latents out, feed them with gradient, and collect the states at ``cells`` (rows, columns [m]).

    ``sight``: where auxiliary images stand in the rows; None: plainly causal. InputError for a batch that is not
    aligned, or has a bottleneck.
    """
    embedded = embed_batch(backbone, batch, checkpointing)
    latents = rolled_out(backbone, embedded, batch, sight, checkpointing=checkpointing)
    if len(latents):
        embedded = embedded.with_latents(*span_cells(batch), latents)
    states = LayerStates(cells[0] * batch.input_ids.shape[1] + cells[1])
    parallel = None if sight is None else sight.parallel
    hidden = single_pass(backbone, embedded, batch, checkpointing=checkpointing, sight=parallel, states=states)
    return StudentOutput(hidden, states.states(), latents, cells[0])


def rolled_out(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    sight: AuxiliarySight | None = None,
    *,
    checkpointing: bool = False,
    states: LayerStates | None = None,
) -> Tensor:
    """Return the latents [n, D] of pass A: each is the state one token earlier, and is fed detached.

    So a latent gets gradient by the computation of its own column and the keys and values before it, not by the latent
    that was fed there. The embeddings of auxiliary images and of what follows them are detached, too, as released.
    ``states`` collects states by the columns of ``batch_of_rollout``. InputError as for ``student_forward``.
    """
    _check(batch)
    if not batch.blocks:
        return embedded.tokens.new_empty(0, embedded.shape[-1])
    part = batch_of_rollout(batch)
    columns = part.input_ids.shape[1]
    inputs = embedded.columns(0, columns)
    if sight is not None:
        tails = sight.tails[:, :columns, None]
        deep = None if inputs.deep is None else torch.where(tails, inputs.deep.detach(), inputs.deep)
        inputs = replace(inputs, tokens=torch.where(tails, inputs.tokens.detach(), inputs.tokens), deep=deep)
    hidden = rollout(
        backbone,
        inputs,
        part,
        checkpointing=checkpointing,
        latent_transform=lambda latents, _: latents.detach(),
        sight=None if sight is None else sight.rollout.until(columns),
        states=states,
    )
    rows, cells = span_cells(batch)
    return hidden[rows, cells - 1]


def batch_of_rollout(batch: LatentBatch) -> LatentBatch:
    """Return the columns of a batch up to the last latent: nothing after it is needed to roll latents out."""
    end = batch.blocks[-1].start + batch.blocks[-1].width
    return replace(
        batch,
        input_ids=batch.input_ids[:, :end],
        attention_mask=batch.attention_mask[:, :end],
        position_ids=batch.position_ids[..., :end],
        labels=batch.labels[:, :end],
        segments=batch.segments[:, :end],
    )


@torch.no_grad()
def teacher_observations(backbone: Backbone, batch: LatentBatch) -> Tensor:
    """Return the states [L + 1, m, D] at observed tokens of rows in which the auxiliary images stand, without latents.

    State 0 is the input embedding, state L the last one, normed.
    """
    rows, columns = observed_cells(batch)
    states = LayerStates(rows * batch.input_ids.shape[1] + columns)
    text_forward(backbone, batch, states=states)
    return states.states()


@torch.no_grad()
def teacher_latents(backbone: Backbone, batch: LatentBatch, sight: AuxiliarySight | None = None) -> Tensor:
    """Return the states [L + 1, n, D] at the latents of pass A; state 0 is the latent itself.

    ``sight`` None: plainly causal, as released. InputError as for ``student_forward``, and without a latent.
    """
    if not batch.blocks:
        raise InputError("Teacher states at latents need rows with latent spans; encode with latents.")
    rows, columns = span_cells(batch)
    states = LayerStates(rows * batch_of_rollout(batch).input_ids.shape[1] + columns)
    rolled_out(backbone, embed_batch(backbone, batch), batch, sight, states=states)
    return states.states()


def _check(batch: LatentBatch) -> None:
    check_aligned(batch)
    if batch.bottleneck != "none":
        raise InputError(
            f"Monet's rows have a sight of their own, got the bottleneck {batch.bottleneck}: collate with none "
            "(latent.bottleneck)."
        )
