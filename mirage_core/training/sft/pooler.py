"""A pooler of auxiliary images: its vectors are targets of latents, learned from the answer (arXiv 2608.19669).

First it is trained beside the frozen base model: its vectors are fed as latents, and the answer's text is the loss.
Then the base model is trained to roll out such vectors itself. Legend: N images, n tokens of an image, S spans,
K latents, D hidden, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from mirage_core.errors import SettingsError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import IGNORED, EncodedExample
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.grounding import auxiliary_images, fed_forward
from mirage_core.model.tensor_files import read_tensors
from mirage_core.model.weights import SavedModule
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.text import cross_entropy

POOLER_FILE = "pooler.safetensors"
HEAD_SIZE = 64
WAVELENGTHS = 10_000.0


class Pooler(nn.Module):
    """K learned queries with one layer of cross-attention over the features of an image, and their places in it.

    Its last LayerNorm begins with the scales of ``norm``, the weight [D] of the model's final norm: vectors then are of
    the size of last hidden states, which are to imitate them.
    """

    def __init__(self, hidden_size: int, num_latents: int, norm: Tensor | None = None) -> None:
        super().__init__()
        self.heads = max(1, hidden_size // HEAD_SIZE) if hidden_size % HEAD_SIZE == 0 else 1
        self.queries = nn.Parameter(torch.randn(num_latents, hidden_size))
        self.image_norm = nn.LayerNorm(hidden_size)
        self.query, self.value, self.output = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a bias would add the same to every token
        self.norm = nn.LayerNorm(hidden_size)
        if norm is not None:
            with torch.no_grad():
                self.norm.weight.copy_(norm)

    def forward(self, images: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> Tensor:
        """Return the vectors [N, K, D] of images [n_i, D] of ``grids`` (rows, columns) of tokens in raster order."""
        # One call of each layer, however many images: where weights are sharded, every call is a collective.
        padded = pad_sequence([image.to(self.queries) for image in images], batch_first=True)
        codes = pad_sequence([places(*grid, padded.shape[-1]) for grid in grids], batch_first=True)
        tokens = self.image_norm(padded) + codes.to(padded)  # features say little of where they are
        lengths = torch.tensor([len(image) for image in images], device=tokens.device)
        visible = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        queries = self._split(self.query(self.queries)[None].expand(len(images), -1, -1))
        read = scaled_dot_product_attention(
            queries, self._split(self.key(tokens)), self._split(self.value(tokens)), attn_mask=visible[:, None, None]
        )
        vectors: Tensor = self.norm(self.queries + self.output(read.transpose(1, 2).flatten(2)))
        return vectors

    def _split(self, tokens: Tensor) -> Tensor:
        """Return tokens [N, ., D] by head [N, H, ., D / H]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def places(rows: int, columns: int, size: int) -> Tensor:
    """Return the codes [rows * columns, size] of places in raster order: sinusoids, half of them of the row.

    Dimensions that cannot be shared out in fours are 0.
    """
    quarter = size // 4
    frequencies = WAVELENGTHS ** (-torch.arange(quarter) / max(1, quarter))
    angles = [torch.arange(count)[:, None] * frequencies for count in (rows, columns)]
    of_row, of_column = (torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in angles)
    grid = torch.cat([of_row[:, None].expand(-1, columns, -1), of_column[None].expand(rows, -1, -1)], dim=-1).flatten(
        0, 1
    )
    return torch.nn.functional.pad(grid, (0, size - grid.shape[-1]))


def pooled_latents(pooler: Pooler, backbone: Backbone, batch: LatentBatch) -> Tensor:
    """Return the pooler's vectors [S, K, D] for a batch's auxiliary images, one a span; gradient reaches the pooler.

    InputError as for ``auxiliary_images``.
    """
    images = auxiliary_images(backbone, batch)
    if not images:
        return torch.empty(0, 0, backbone.hidden_size, device=backbone.device) + pooler.queries.sum() * 0.0
    grids = [
        token_grid(grid, len(image)) for grid, image in zip(batch.auxiliary_grid_thw.tolist(), images, strict=True)
    ]
    return pooler(images, grids)  # type: ignore[no-any-return]


def token_grid(grid_thw: Sequence[int], tokens: int) -> tuple[int, int]:
    """Return rows and columns of an image's merged tokens, from its grid of patches (frames, height, width)."""
    frames, height, width = grid_thw
    merged = math.isqrt(frames * height * width // tokens)
    columns = width // merged
    return tokens // columns, columns


def answer_labels(example: EncodedExample, latent_end: int) -> EncodedExample:
    """Return the example with labels after its last span alone: what stands before does not depend on the latents."""
    ends = (example.ids == latent_end).nonzero()
    labels = example.labels.clone()
    labels[: int(ends[-1]) + 1 if len(ends) else 0] = IGNORED
    return replace(example, labels=labels)


def pooler_loss(backbone: Backbone, batch: LatentBatch, pooler: Pooler, *, checkpointing: bool = False) -> LossParts:
    """Return the loss of a pooler: cross-entropy with its vectors as the latents, in one pass (arXiv 2608.19669).

    The batch has labels after its spans alone (``answer_labels``).
    """
    latents = pooled_latents(pooler, backbone, batch)
    hidden = fed_forward(backbone, batch, latents, checkpointing=checkpointing)
    return LossParts.sum({"text": cross_entropy(backbone, hidden, batch.labels)})


def new_pooler(backbone: Backbone, num_latents: int, seed: int) -> Pooler:
    """Return a pooler for a model, with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pooler(backbone.hidden_size, num_latents, backbone.norm_weight.detach().cpu()).to(backbone.dtype)


def pooler_parameters(hidden_size: int, num_latents: int) -> int:
    """Return the number of a pooler's parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Pooler(hidden_size, num_latents).parameters())


def saved_pooler(pooler: Pooler) -> SavedModule:
    """Return the pooler as it is saved in the folder of the model that it was trained beside."""
    return SavedModule(pooler, POOLER_FILE, {"format": "pt"})


def load_pooler(folder: Path, backbone: Backbone, num_latents: int) -> Pooler:
    """Load the pooler of a model folder on the model's device, not to be trained.

    SettingsError for a folder without one, and for one of another number of latents or hidden size.
    """
    file = folder / POOLER_FILE
    if not file.is_file():
        raise SettingsError(f"{folder} has no {POOLER_FILE}: train from the result of the stage pooler")
    weights = read_tensors(file)[0]
    found, expected = (
        tuple(weights["queries"].shape) if "queries" in weights else (),
        (num_latents, backbone.hidden_size),
    )
    if len(found) != 2:
        raise SettingsError(f"{file} holds no pooler: copy the file from where the model was trained")
    if found != expected:
        raise SettingsError(
            f"{file} makes {found[0]} vectors of {found[1]} numbers, expected {expected[0]} of {expected[1]}: set "
            "latent.num_latents to what it was trained with"
        )
    pooler = Pooler(backbone.hidden_size, num_latents)
    try:
        pooler.load_state_dict(weights)
    except RuntimeError as error:
        raise SettingsError(f"{file} holds no whole pooler: copy the file from where the model was trained") from error
    return pooler.to(backbone.device, backbone.dtype).requires_grad_(False)
