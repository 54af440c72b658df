"""What is fed as a latent, read from the last hidden state by a small module that trains with the model and is saved
beside it: a head, and a vector that tells where a span stops. LVR, arXiv 2509.24251; the head mlp is the projection of
CODI, arXiv 2502.21074. Legend: n latents, D hidden.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mirage_core.errors import SettingsError
from mirage_core.model.backbone import Backbone
from mirage_core.model.tensor_files import read_tensors
from mirage_core.model.weights import SavedModule

READOUT_FILE = "latent_readout.safetensors"
HeadKind = Literal["none", "simple", "glu", "mlp"]


class GatedHead(nn.Module):
    """SwiGLU with biases: ``down(silu(gate(h)) * up(h))``."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, inner_size)
        self.up_proj = nn.Linear(hidden_size, inner_size)
        self.down_proj = nn.Linear(inner_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return vectors [..., D] of states [..., D]."""
        vectors: Tensor = self.down_proj(silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return vectors


class LatentReadout(nn.Module):
    """``head``: what is fed of a last hidden state; none: the state itself. ``stop``: holds a vector [D] near which a
    latent ends its span, at first of the norm sqrt(D); None: something else ends spans.
    """

    def __init__(self, hidden_size: int, head: HeadKind, inner_size: int, *, stops: bool) -> None:
        super().__init__()
        self.kind: HeadKind = head
        self.head: nn.Module | None = None
        if head == "simple":
            self.head = nn.Sequential(
                nn.LayerNorm(hidden_size, eps=1e-6),
                nn.Linear(hidden_size, hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, hidden_size),
            )
        elif head == "glu":
            self.head = GatedHead(hidden_size, inner_size)
        elif head == "mlp":
            self.head = nn.Sequential(
                nn.Linear(hidden_size, inner_size),
                nn.GELU(),
                nn.Linear(inner_size, hidden_size),
                nn.LayerNorm(hidden_size),
            )
        self.stop = nn.Embedding(1, hidden_size) if stops else None  # a module, which ZeRO-3 gathers when it is called
        if self.stop is not None:
            with torch.no_grad():
                self.stop.weight *= math.sqrt(hidden_size) / self.stop.weight.norm()

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is fed [..., D] of last hidden states [..., D], in their type."""
        return hidden if self.head is None else self.head(hidden)  # type: ignore[no-any-return]

    def stop_vectors(self, spans: int) -> Tensor | None:
        """Return the stop vector for each of so many spans [S, D]; None without one."""
        if self.stop is None:
            return None
        vectors: Tensor = self.stop(torch.zeros(spans, dtype=torch.long, device=self.stop.weight.device))
        return vectors


def new_readout(
    hidden_size: int, inner_size: int, head: HeadKind, *, stops: bool, seed: int, dtype: torch.dtype
) -> LatentReadout:
    """Return a readout with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentReadout(hidden_size, head, inner_size, stops=stops).to(dtype)


def readout_parameters(hidden_size: int, inner_size: int, head: HeadKind, *, stops: bool) -> int:
    """Return how many weights a readout has, without making them."""
    with torch.device("meta"):
        readout = LatentReadout(hidden_size, head, inner_size, stops=stops)
    return sum(weight.numel() for weight in readout.parameters())


def saved_readout(readout: LatentReadout) -> SavedModule:
    """Return the readout as it is saved in the folder of its model."""
    metadata = {"head": readout.kind}  # one entry: the order of several differs from file to file
    return SavedModule(readout, READOUT_FILE, metadata)


def load_readout(folder: Path, backbone: Backbone) -> LatentReadout | None:
    """Load the readout of a model folder beside its backbone, not to be trained; None where the folder has none.

    SettingsError for a file of another kind or size.
    """
    file = folder / READOUT_FILE
    if not file.is_file():
        return None
    weights, metadata = read_tensors(file)
    kind = metadata.get("head", "none")
    sizes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        inner, hidden = sizes.get("head.0.weight" if kind == "mlp" else "head.gate_proj.weight", (0, 0))
        hidden = hidden or next(size[-1] for name, size in sizes.items() if name in ("stop.weight", "head.0.weight"))
        readout = LatentReadout(hidden, kind, inner, stops="stop.weight" in weights)  # type: ignore[arg-type]
        readout.load_state_dict(weights)
    except (StopIteration, RuntimeError, ValueError, IndexError, TypeError) as error:
        raise SettingsError(
            f"{file} is no latent readout ({kind}, {sizes}): copy the file from where the model was trained"
        ) from error
    return readout.to(backbone.device, backbone.dtype).requires_grad_(False)
