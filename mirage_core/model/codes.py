"""Discrete latents (``latent.input: code``): what is fed is an entry of a codebook of image features.

A linear head reads the code off the last hidden state that would else be fed itself. The head and the codebook train
with the model (stepwise grounding, ``what: codebook``) and lie beside it. Legend: n latents, C codes, D hidden.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mirage_core.errors import SettingsError
from mirage_core.model.tensor_files import read_tensors

HEADS_FILE = "step_heads.safetensors"
"""The heads of stepwise grounding, beside the model."""

_PARTS = ("what.weight", "what.bias", "codes", "centre")


class CodeReader(nn.Module):
    """Chooses the code of a latent: ``head`` gives scores [n, C]; ``entries`` [C, D] are what is fed."""

    entries: Tensor

    def __init__(self, head: nn.Linear, codes: Tensor, centre: Tensor) -> None:
        """``codes`` [C, D] are centred; ``centre`` [D] is what they have in common."""
        super().__init__()
        self.head = head
        self.register_buffer("entries", code_entries(codes, centre), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the entries [n, D] of the most probable codes of last hidden states [n, D]."""
        scores = linear(hidden, self.head.weight.to(hidden), self.head.bias.to(hidden))
        return self.entries.to(hidden)[scores.argmax(-1)]


def code_entries(codes: Tensor, centre: Tensor) -> Tensor:
    """Return the codebook at the scale of image features [C, D], in float32."""
    return centre.float() + codes.float()


def load_code_reader(folder: Path) -> CodeReader:
    """Load what chooses codes from a model folder; SettingsError where the folder lacks the head or the codebook."""
    file = folder / HEADS_FILE
    tensors = read_tensors(file)[0] if file.is_file() else {}
    missing = [name for name in _PARTS if name not in tensors]
    if missing:
        raise SettingsError(
            f"{folder} feeds codes (latent.input code), but {HEADS_FILE} in it lacks {', '.join(missing)}: copy the "
            "file from where the model was trained, or train it again with stepwise what: codebook"
        )
    head_shape, codes_shape = tensors["what.weight"].shape, tensors["codes"].shape
    if len(head_shape) != 2 or codes_shape != head_shape or tensors["what.bias"].shape != head_shape[:1]:
        raise SettingsError(
            f"{file} has a head {list(head_shape)} for codes {list(codes_shape)}, expected one entry a class: copy the "
            "file from where the model was trained"
        )
    with torch.no_grad():
        classes, width = head_shape
        head = nn.Linear(width, classes)
        head.weight.copy_(tensors["what.weight"])
        head.bias.copy_(tensors["what.bias"])
    return CodeReader(head.requires_grad_(False), tensors["codes"], tensors["centre"])
