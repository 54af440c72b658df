"""Checkpoints that other authors released: what lies among their weights.

LVR (arXiv 2509.24251, commit 637a9f7) and Monet (arXiv 2511.21395, commit 0893999) are Qwen2.5-VL with tokens of their
own for spans. Legend: D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mirage_core.errors import SettingsError
from mirage_core.model.backbone import Backbone
from mirage_core.model.readout import HeadKind, LatentReadout
from mirage_core.model.tensor_files import files_of_weights, read_tensors

_HEADS: Mapping[HeadKind, Mapping[str, str]] = {
    "simple": {"ln_q": "head.0", "mlp.0": "head.1", "mlp.2": "head.3"},
    "glu": {"gate_proj": "head.gate_proj", "up_proj": "head.up_proj", "down_proj": "head.down_proj"},
}
_HEAD, _STOP = "lvr_head.", "lvr_latent_end_emb"


def authors_readout(folder: Path, backbone: Backbone) -> LatentReadout | None:
    """Return the head and the stop vector that LVR's code saves among the weights; None where there is neither.

    SettingsError for a head that is none of LVR's.
    """
    tensors = _tensors(folder, (_HEAD, _STOP))
    if not tensors:
        return None
    named = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    kind: HeadKind = "none"
    if named:
        kind = "glu" if "gate_proj.weight" in named else "simple"
    layers = _HEADS.get(kind, {})
    weights = {}
    for name, tensor in named.items():
        layer, _, part = name.rpartition(".")
        weights[f"{layers.get(layer, layer)}.{part}"] = tensor
    if _STOP in tensors:
        weights["stop.weight"] = tensors[_STOP].reshape(1, -1)
    inner = named["gate_proj.weight"].numel() // backbone.hidden_size if kind == "glu" else 0
    readout = LatentReadout(backbone.hidden_size, kind, inner, stops=_STOP in tensors)
    return _filled(readout, weights, folder).to(backbone.device, backbone.dtype)


def _filled(readout: LatentReadout, weights: Mapping[str, Tensor], folder: Path) -> LatentReadout:
    try:
        readout.load_state_dict(weights)
    except RuntimeError as error:
        raise SettingsError(
            f"{folder} has a head {_HEAD}* that is none of LVR's (simple, glu): {sorted(weights)}; fetch it again"
        ) from error
    return readout.requires_grad_(False)


def _tensors(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the weights of a folder whose names begin so, from one file or from shards."""
    found: dict[str, Tensor] = {}
    for file in files_of_weights(folder, prefixes):
        found |= read_tensors(file, prefixes)[0]
    return found
