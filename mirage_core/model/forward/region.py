"""The forward of LVR: features of the image's own region are the latents that are fed, and their targets.

arXiv 2509.24251, stage 1. Legend: B rows, T columns, S spans, n latents of all spans, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import copy_to_reencoded, image_features, latent_cells, single_pass
from mirage_core.model.readout import LatentReadout


@dataclass(frozen=True, slots=True)
class RegionOutput:
    """hidden [B, T, D]; ``predicted`` [n, D]: what is read from the states one token earlier, and ``targets`` [n, D].

    ``rows``, ``columns`` [n]: of the latents; spans may differ in length. ``stops``: what is read from the state before
    each stop token [S, D], and the vectors fed there [S, D]; None without a learned stop vector.
    """

    hidden: Tensor
    predicted: Tensor
    targets: Tensor
    rows: Tensor
    columns: Tensor
    stops: tuple[Tensor, Tensor] | None = None


def region_forward(
    backbone: Backbone,
    batch: LatentBatch,
    readout: LatentReadout | None = None,
    *,
    detached: bool = True,
    checkpointing: bool = False,
) -> RegionOutput:
    """Feed the features of the region as latents, in one parallel pass.

    The features are those of the pass that fills the image tokens, or of crops (auxiliary images) encoded anew.
    ``readout``: what predicts a latent from the state, and the vector that is fed at stop tokens. ``detached``: no
    gradient reaches the vision tower through what latents are held to; what is fed keeps its own. InputError where the
    batch has neither region tokens nor a crop a span of as many tokens as it has latents.
    """
    images = image_features(backbone, batch, checkpointing=checkpointing)
    embedded = backbone.embed(batch.input_ids, images)
    lengths = batch.span_lengths.tolist()
    features = region_features(backbone, batch, images).to(embedded.tokens.dtype)
    rows, columns = latent_cells(batch, lengths)
    embedded = copy_to_reencoded(embedded.with_latents(rows, columns, features), batch)
    ends = batch.span_starts + batch.span_lengths
    stops = None if readout is None else readout.stop_vectors(len(ends))
    if stops is not None:
        embedded = embedded.with_latents(batch.span_rows, ends, stops.to(embedded.tokens.dtype))
    hidden = single_pass(backbone, embedded, batch, checkpointing=checkpointing)
    read = readout or nn.Identity()
    return RegionOutput(
        hidden=hidden,
        predicted=read(hidden[rows, columns - 1]),
        targets=features.detach() if detached else features,
        rows=rows,
        columns=columns,
        stops=None if stops is None else (read(hidden[batch.span_rows, ends - 1]), stops),
    )


def region_features(backbone: Backbone, batch: LatentBatch, images: Sequence[Tensor]) -> Tensor:
    """Return the features [n, D] that the latents are held to, span by span, from features [n_i, F] of the images.

    InputError as for ``region_forward``.
    """
    crops = len(batch.auxiliary_grid_thw)
    if crops:
        encoded = list(batch.auxiliary_features) or backbone.image_features(
            batch.auxiliary_pixel_values, batch.auxiliary_grid_thw
        )
        features = torch.cat([backbone.merged(crop) for crop in encoded])
    elif len(batch.region_tokens):
        features = torch.cat([backbone.merged(image) for image in images]).index_select(0, batch.region_tokens)
    else:
        features = torch.empty(0, backbone.hidden_size, device=backbone.device)
    latents = int(batch.span_lengths.sum())
    if len(features) != latents:
        raise InputError(
            f"Got {len(features)} features of regions for {latents} latents. Encode with Encoder.example and the "
            "regions of its problem (with_regions)."
        )
    return features
