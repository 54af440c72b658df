"""Which kernels compute on this machine, and the arithmetic that is the same on every x86 CPU with AVX2.

Rounding depends on the order of a sum, so on the width of the vectors that a kernel uses. torch, oneDNN and oneMKL each
choose their kernels by what the CPU offers; oneMKL also by its vendor: only the branch COMPATIBLE of its conditional
numerical reproducibility is one on Intel and AMD. Its square roots are not (15 % are not correctly rounded, and those
differ between CPUs), so AdamW then steps by torch's fused kernel, which has none of them. ``mirage bench arithmetic``
shows equal digests over emulated CPUs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirage_core.errors import SettingsError

if TYPE_CHECKING:
    import torch

PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""What makes the libraries choose one arithmetic; each reads its variable with its first kernel."""


def use_portable_math() -> None:
    """Make this process compute as every CPU with AVX2 can (``runtime.portable_math``).

    SettingsError where the CPU has no AVX2, or where a kernel has been chosen already.
    """
    os.environ.update(PORTABLE)
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if capability != "AVX2":
        raise SettingsError(
            f"runtime.portable_math is true, but torch computes with {capability} here; expected a CPU with AVX2 and "
            "a process that has not computed yet. Set runtime.portable_math to false"
        )


def arithmetic_of(device: torch.device, *, portable: bool) -> str:
    """Name the kernels that compute on ``device``, such as ``CPU, AVX512`` or ``CPU, AVX2, portable``."""
    import torch

    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}" + (", portable" if portable else "")
