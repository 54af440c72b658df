"""AdamW in its forms (torch's, fused in one kernel, with 8-bit moments) and Muon, their moments, learning rates.

torch's fused kernels exist for GPUs and, where the optimizer is offloaded, for main memory: so neither DeepSpeed's
FusedAdam nor its CPUAdam, which must be compiled, is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mirage_core.config import OptimizerName
from mirage_core.errors import SettingsError
from mirage_core.training.checkpoint.sharded_state import MEAN, SQUARE
from mirage_core.training.engine.muon import Muon, split_parameters

Schedule = Literal["constant", "cosine", "linear"]
BLOCK = 256
"""Values that share one scale in bitsandbytes' 8-bit moments."""
_STATE_KEYS = {MEAN: ("state1", "qmap1", "absmax1"), SQUARE: ("state2", "qmap2", "absmax2")}


def make_optimizer(
    named: Mapping[str, nn.Parameter], weight_decay: float, kind: OptimizerName = "adamw", *, fused: bool = False
) -> torch.optim.Optimizer:
    """Make the optimizer with decay on matrices only, as in the Hugging Face Trainer; the rate is set at every step.

    SettingsError for 8 bits without bitsandbytes.
    """
    if kind == "muon":
        matrices, others = split_parameters(named)
        if matrices:
            return Muon(matrices, weight_decay, _adamw(_groups(others, weight_decay), fused) if others else None)
    groups = _groups(named.values(), weight_decay)
    if kind == "adamw_8bit":
        optimizer: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(groups, lr=0.0)
        return optimizer
    return _adamw(groups, fused)


def _adamw(groups: list[dict[str, Any]], fused: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=0.0, fused=True if fused else None)


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    given = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in given if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in given if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def moments(optimizer: torch.optim.Optimizer, tensor: Tensor) -> dict[str, Tensor]:
    """Return the moments of a tensor that is stepped on, in float32 and flat; zeros before the first step, and for the
    second moment of a matrix that Muon steps on, which has none."""
    state: dict[str, Any] = optimizer.state.get(tensor, {})
    if not state or MEAN in state:
        return {
            kind: state[kind].view(-1) if kind in state else torch.zeros(tensor.numel(), device=tensor.device)
            for kind in (MEAN, SQUARE)
        }
    return {kind: _dequantized(state, *names).view(-1) for kind, names in _STATE_KEYS.items()}


def set_moments(optimizer: torch.optim.Optimizer, tensor: Tensor, steps: int, values: dict[str, Tensor]) -> None:
    """Set the moments after ``steps`` steps (flat, float32, on the tensor's device).

    8-bit moments are rounded again; those that came out of 8 bits get the same codes again, their scales up to the
    rounding of float32.
    """
    shaped = {kind: moment.view(tensor.shape) for kind, moment in values.items()}
    if isinstance(optimizer, Muon) and optimizer.orthogonalises(tensor):
        optimizer.state[tensor] = {MEAN: shaped[MEAN]}
        return
    if isinstance(optimizer, (torch.optim.AdamW, Muon)):
        # Fused kernels count steps on the device of the weights.
        counted_on = tensor.device if optimizer.param_groups[-1].get("fused") else "cpu"
        optimizer.state[tensor] = {"step": torch.tensor(float(steps), device=counted_on), **shaped}
        return
    _set_quantized(optimizer, tensor, steps, shaped)


def _dequantized(state: dict[str, Any], codes: str, table: str, scales: str) -> Tensor:
    """Return a moment of bitsandbytes in float32; it does not quantise small tensors at all."""
    values: Tensor = state[codes]
    if values.dtype == torch.float32:
        return values
    dequantized: Tensor = _bitsandbytes().functional.dequantize_blockwise(
        values, absmax=state[scales], code=state[table], blocksize=BLOCK
    )
    return dequantized.float()


def _set_quantized(optimizer: Any, tensor: Tensor, steps: int, shaped: dict[str, Tensor]) -> None:
    """Create bitsandbytes' own state of a tensor, then write the moments into it."""
    optimizer.check_overrides()
    optimizer.initialized = True
    group = optimizer.param_groups[0]  # sizes and tables are those of every group
    listed, group["params"] = group["params"], [tensor]  # under ZeRO-3 no group lists it but while it is stepped on
    try:
        optimizer.init_state(group, tensor, 0, 0)
    finally:
        group["params"] = listed
    state = optimizer.state[tensor]
    state["step"] = steps
    for kind, (codes, table, scales) in _STATE_KEYS.items():
        if state[codes].dtype == torch.float32:
            state[codes].copy_(shaped[kind])
        else:
            quantized, block_scales = _quantized(shaped[kind].reshape(-1), state[table].to(tensor.device))
            state[codes].copy_(quantized.view_as(state[codes]))
            state[scales].copy_(block_scales)


def _quantized(values: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest codes [n] of values [n], and the scale of each block of ``BLOCK`` values.

    bitsandbytes' own rounding takes the largest magnitude of a block as its scale. Its table reaches 1, but not -1: a
    block whose largest magnitude is negative would get another scale each time it comes out of 8 bits and goes back.
    """
    blocks = nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    highest, lowest = blocks.amax(1), blocks.amin(1)
    scales = torch.where(-lowest > highest, lowest / table.min().clamp(max=-1e-8), highest)
    edges = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks / scales.clamp(min=1e-38)[:, None], edges).to(torch.uint8)
    return codes.view(-1)[: len(values)], scales


def _bitsandbytes() -> Any:
    """Import the library when it is needed."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise SettingsError(
            f"optimizer is adamw_8bit, but bitsandbytes cannot be imported ({error}): install it with "
            "`pip install bitsandbytes`, or set the stage's optimizer to adamw"
        ) from error
    return bitsandbytes


def learning_rate(step: int, *, steps: int, peak: float, warmup_steps: int, schedule: Schedule) -> float:
    """Return the rate of optimizer step ``step`` (the first is 0) of ``steps``.

    Linear from peak / warmup_steps to peak over the warm-up, which takes half the steps at most; then constant,
    or a half cosine or a line that would reach 0 one step after the last.
    """
    warmup = min(warmup_steps, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)
