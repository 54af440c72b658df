"""Checkpoints that other authors released: what lies among their weights.

LVR (arXiv 2509.24251, commit 637a9f7) and Monet (arXiv 2511.21395, commit 0893999) are Qwen2.5-VL with tokens of their
own for spans. Legend: D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from mirage_core.errors import SettingsError
from mirage_core.model.backbone import Backbone
from mirage_core.model.readout import HeadKind, LatentReadout

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
    inner = len(named["gate_proj.weight"]) if kind == "glu" else 0
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
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for name, file in places.items() if name.startswith(prefixes)})
    else:
        files = ["model.safetensors"]
    found: dict[str, Tensor] = {}
    for file in files:
        if (folder / file).is_file():
            with safe_open(folder / file, "pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(prefixes)}  # noqa: SIM118 -- no dict
    return found
