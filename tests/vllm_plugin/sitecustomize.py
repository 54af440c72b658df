"""Lets vLLM's Model Runner V2, whose kernels are Triton's, run on a CPU.

Python imports this file, where its folder is on PYTHONPATH, at the start of every process of vLLM: its engine and its
model inspection are processes of their own.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from triton.backends import backends

# PyPI's torchvision is built for CUDA: without it two operators do not exist, and it cannot be imported.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# vLLM wants Triton's CPU backend, which PyPI's Triton lacks; its interpreter (TRITON_INTERPRET) needs none.
backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
