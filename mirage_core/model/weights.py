"""A model's weights as stock transformers knows them, one at a time: adapters folded in, and the adapters alone.

One at a time, since under ZeRO-3 no process holds more of a weight than its shard: all processes make a weight whole
together, and one of them keeps it. Legend: r rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import ADAPTER, LearnedRows, adapter_config

ADAPTER_FOLDER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_PEFT = "base_model.model."

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Makes the weights it is given whole inside the block; every process calls it alike."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight by its stock name, the parameters it is made of, and how: ``value`` is called while they are whole."""

    name: str
    parts: tuple[nn.Parameter, ...]
    value: Callable[[], Tensor]


def whole(_: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """The ``Gather`` of weights that no engine has sharded."""
    return nullcontext()


def collected(weights: Iterator[Weight], gather: Gather, *, keep: bool) -> dict[str, Tensor]:
    """The values by name; empty in a process that does not ``keep`` them.

    Weights that are whole anyway stay where they are; what is made for this goes to main memory, one after the other.
    """
    found: dict[str, Tensor] = {}
    for weight in weights:
        with gather(weight.parts), torch.no_grad():
            if keep:
                found[weight.name] = _kept(weight, lasting=gather is whole)
    return found


def _kept(weight: Weight, *, lasting: bool) -> Tensor:
    """The value of a weight, a copy of it where it is gone after the block (not ``lasting``)."""
    value = weight.value().detach()
    if lasting and len(weight.parts) < 2:
        return value.contiguous()
    return value.to("cpu", copy=not lasting).contiguous()


def plain_weights(model: nn.Module) -> Iterator[Weight]:
    """All weights of a stock model, tied ones once, in a fixed order; adapters are folded into what they adapt."""
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        if ".lora_" in name or isinstance(layers[owner], LearnedRows):
            continue
        adapted = layers[owner.removesuffix(".base_layer")] if owner.endswith(".base_layer") else None
        folded = None if adapted is None or own != "weight" else _folded(adapted, parameter)
        yield Weight(name.replace(".base_layer.", "."), *(folded or _as_it_is(parameter)))
    kept = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in kept:
            yield Weight(name, *_as_it_is(buffer))


def adapter_weights(model: nn.Module) -> Iterator[Weight]:
    """What adapters hold, by the names of peft's own files."""
    named = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, LearnedRows) and f"{name}.rows" in named:  # the rows of tied tables once
            yield Weight(f"{_PEFT}{name}.token_adapter.trainable_tokens_delta", *_as_it_is(module.rows))
    for name, parameter in named.items():
        if ".lora_" in name:
            yield Weight(_PEFT + name.replace(f".{ADAPTER}.", "."), *_as_it_is(parameter))


def save_adapter(folder: Path, backbone: Backbone, tensors: dict[str, Tensor]) -> None:
    """Write collected ``adapter_weights`` as peft does: ``PeftModel.from_pretrained(model, folder)`` reads them.

    The model must be the one that the adapters were trained on: the input of the stage.
    """
    folder.mkdir(exist_ok=True)
    config = adapter_config(backbone).to_dict()
    config["inference_mode"] = True
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    text = json.dumps(written, indent=2, sort_keys=True, default=str)
    (folder / ADAPTER_FILES[0]).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / ADAPTER_FILES[1], metadata={"format": "pt"})


def _as_it_is(tensor: Tensor) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor]]:
    parts = (tensor,) if isinstance(tensor, nn.Parameter) else ()
    return parts, lambda: tensor


def _folded(layer: Any, weight: nn.Parameter) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor]]:
    """The weight of an adapted layer: W + alpha / r * B A in float32, rounded once; or W with the rows that learned."""
    if isinstance(layer, LearnedRows):
        return (weight, layer.rows), lambda: weight.index_copy(0, layer.ids, layer.rows)
    down, up, scaling = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]

    def folded() -> Tensor:
        return (weight.float() + scaling * (up.float() @ down.float())).to(weight.dtype)

    return (weight, down, up), folded
