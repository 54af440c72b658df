"""A model's weights under their stock names, one at a time: with adapters merged in, and the adapters alone.

One at a time, since under ZeRO-3 a process has only its shard of a weight: all processes gather a weight together, and
one of them stores it. Legend: r rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import ADAPTER, TrainableTokenRows, adapter_config

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_PEFT = "base_model.model."

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Gathers sharded parameters inside the block; a collective: every process calls it in the same order."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight by its stock name, its parameters, and ``value``, which computes it while they are gathered."""

    name: str
    parts: tuple[nn.Parameter, ...]
    value: Callable[[], Tensor]


def no_gather(_: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """The ``Gather`` of weights that are not sharded."""
    return nullcontext()


def collect_weights(weights: Iterator[Weight], gather: Gather, *, store: bool) -> dict[str, Tensor]:
    """Return the values by name; empty in a process that does not ``store`` them.

    Unsharded weights stay on their device; gathered and merged ones are copied to main memory, one after the other.
    """
    values: dict[str, Tensor] = {}
    for weight in weights:
        with gather(weight.parts), torch.no_grad():
            if store:
                values[weight.name] = _value(weight, sharded=gather is not no_gather)
    return values


def _value(weight: Weight, *, sharded: bool) -> Tensor:
    """Return the value of a weight; a copy where it is ``sharded``, since it is released after the block."""
    value = weight.value().detach()
    if not sharded and len(weight.parts) < 2:
        return value.contiguous()
    return value.to("cpu", copy=sharded).contiguous()


@dataclass(frozen=True, slots=True)
class SavedModule:
    """A module that was trained beside a model, and the safetensors ``file`` it is saved to in the model's folder."""

    module: nn.Module
    file: str
    metadata: Mapping[str, str]

    def save(self, folder: Path, gather: Gather, *, write: bool) -> None:
        """Write the file; every process calls this with the same ``gather``, one has ``write`` set."""
        named = (Weight(name, *_unchanged(tensor)) for name, tensor in named_tensors(self.module))
        values = collect_weights(named, gather, store=write)
        if write:
            save_file(values, folder / self.file, metadata=dict(self.metadata))


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a module by name, in a fixed order."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def merged_weights(model: nn.Module) -> Iterator[Weight]:
    """Yield all weights of a stock model, tied ones once, in a fixed order, with adapters merged in."""
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        if ".lora_" in name or isinstance(layers[owner], TrainableTokenRows):
            continue
        adapted = layers[owner.removesuffix(".base_layer")] if owner.endswith(".base_layer") else None
        merged = None if adapted is None or own != "weight" else _merged(adapted, parameter)
        yield Weight(name.replace(".base_layer.", "."), *(merged or _unchanged(parameter)))
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in persistent:
            yield Weight(name, *_unchanged(buffer))


def adapter_weights(model: nn.Module) -> Iterator[Weight]:
    """Yield the weights of the adapters under the names in peft's files."""
    named = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, TrainableTokenRows) and f"{name}.rows" in named:  # the rows of tied tables once
            yield Weight(f"{_PEFT}{name}.token_adapter.trainable_tokens_delta", *_unchanged(module.rows))
    for name, parameter in named.items():
        if ".lora_" in name:
            yield Weight(_PEFT + name.replace(f".{ADAPTER}.", "."), *_unchanged(parameter))


def save_adapter(folder: Path, backbone: Backbone, tensors: dict[str, Tensor]) -> None:
    """Write collected ``adapter_weights`` in peft's format, for ``PeftModel.from_pretrained(model, folder)``.

    That model must be the one that the adapters were trained on: the input of the stage.
    """
    folder.mkdir(exist_ok=True)
    config = adapter_config(backbone).to_dict()
    config["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (folder / ADAPTER_FILES[0]).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / ADAPTER_FILES[1], metadata={"format": "pt"})


def _unchanged(tensor: Tensor) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor]]:
    parts = (tensor,) if isinstance(tensor, nn.Parameter) else ()
    return parts, lambda: tensor


def _merged(layer: Any, weight: nn.Parameter) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor]]:
    """Return the merged weight of a layer: W + alpha / r * B A in float32, rounded once; or W with its trained rows."""
    if isinstance(layer, TrainableTokenRows):
        return (weight, layer.rows), lambda: weight.index_copy(0, layer.ids, layer.rows)
    down, up, scaling = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]

    def merge() -> Tensor:
        return (weight.float() + scaling * (up.float() @ down.float())).to(weight.dtype)

    return (weight, down, up), merge
