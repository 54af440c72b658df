"""Loading at real size: weights come as they are stored, and go straight to their device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.errors import SettingsError
from mirage_core.model.loading import build_base_model, load_model, save_model
from tests.model.test_loading import saved, small

ROOT = Path(__file__).parents[2]
LARGER = ArchitectureSettings(
    hidden_size=512, intermediate_size=2048, num_layers=8, num_heads=8, num_kv_heads=8, mrope_section=(8, 12, 12)
)
MEASURE = """
import json, resource, sys
from pathlib import Path
from mirage_core.model.loading import load_model
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_model(Path(sys.argv[1]), dtype="bfloat16")  # all that is imported on the way
before = peak()
backbone = load_model(Path(sys.argv[2]), dtype="bfloat16").backbone
weights = sum(weight.nbytes for weight in backbone.parameters())
print(json.dumps({"growth": peak() - before, "weights": weights, "dtype": str(backbone.dtype)}))
"""


def test_weights_in_bfloat16_are_never_in_memory_in_another_type(tmp_path: Path) -> None:
    for name, sizes in (("small", ArchitectureSettings()), ("larger", LARGER)):
        model = build_base_model(ModelSettings(architecture=sizes, dtype="bfloat16"), 1)
        save_model(tmp_path / name, model.backbone, model.processor, {})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "larger")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=300, env={**os.environ})
    result = json.loads(done.stdout)
    assert result["weights"] > 50e6 and result["dtype"] == "torch.bfloat16"
    assert result["growth"] < 1.2 * result["weights"]  # in float32 it would be 2 more


def test_a_device_is_told_to_stock_loading_and_main_memory_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, small())
    info: list[dict[str, Any]] = []

    def noted(*_: Any, **given: Any) -> None:
        info.append(given)
        raise OSError("enough")

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "from_pretrained", noted)
    for device in (None, torch.device("cpu"), torch.device("cuda", 1)):
        with pytest.raises(SettingsError, match="enough"):
            load_model(tmp_path, dtype="bfloat16", device=device)
    assert [given["device_map"] for given in info] == [None, None, {"": torch.device("cuda", 1)}]
    assert all(given["dtype"] == torch.bfloat16 for given in info)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_but_the_weights_is_allocated(tmp_path: Path) -> None:
    model = build_base_model(ModelSettings(architecture=LARGER, dtype="bfloat16"), 1)
    save_model(tmp_path, model.backbone, model.processor, {})
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backbone = load_model(tmp_path, dtype="bfloat16", device=device).backbone
    weights = sum(weight.nbytes for weight in backbone.parameters())
    assert backbone.device == device
    assert torch.cuda.max_memory_allocated() - before < 1.1 * weights
