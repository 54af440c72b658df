"""What is fed as a latent, read from a hidden state, and the vector near which a span ends: as the folder has them.

LVR, arXiv 2509.24251. Pure torch, no vLLM. Legend: D hidden.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import silu

from mirage_vllm.settings import SettingsError


class _GatedHead(nn.Module):
    """SwiGLU with biases: ``down(silu(gate(h)) * up(h))``."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(hidden, inner), nn.Linear(hidden, inner)
        self.down_proj = nn.Linear(inner, hidden)

    def forward(self, states: Tensor) -> Tensor:
        vectors: Tensor = self.down_proj(silu(self.gate_proj(states)) * self.up_proj(states))
        return vectors


def _simple_head(hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(hidden, eps=1e-6), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
    )


class Readout:
    """``head`` reads vectors [..., D] off states; None: a state is fed as it is. ``stop`` [D]: ends spans, or None."""

    def __init__(self, head: nn.Module | None, stop: Tensor | None) -> None:
        self._head, self.stop = head, stop

    def __call__(self, states: Tensor) -> Tensor:
        """What is fed of last hidden states [n, D]."""
        return states if self._head is None else self._head(states)  # type: ignore[no-any-return]


def load_readout(file: Path, dtype: torch.dtype, device: torch.device) -> Readout:
    """Load the readout of a model folder. SettingsError for a file of another kind or size."""
    weights = load_file(file)
    with safe_open(file, "pt") as opened:
        kind = (opened.metadata() or {}).get("head", "none")
    sizes = {name: tuple(weight.shape) for name, weight in weights.items()}
    stop = weights.pop("stop.weight", None)
    try:
        head: nn.Module | None = None
        if kind == "glu":
            inner, hidden = sizes["head.gate_proj.weight"]
            head = _GatedHead(hidden, inner)
        elif kind == "simple":
            head = _simple_head(sizes["head.0.weight"][0])
        if head is not None:
            head.load_state_dict({name.removeprefix("head."): weight for name, weight in weights.items()})
        elif kind != "none" or weights:
            raise KeyError(kind)
    except (KeyError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{file} is no latent readout ({kind}, {sizes}): copy the file from where the model was trained"
        ) from error
    placed = None if head is None else head.to(device, dtype).requires_grad_(False)
    return Readout(placed, None if stop is None else stop[0].to(device, dtype))
