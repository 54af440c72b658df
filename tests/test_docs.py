"""The code that the documentation shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.model.base import build_base, save_model

DOCS = Path(__file__).parents[1] / "docs"
SMALL = ArchitectureSettings(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)


def test_the_use_of_the_latent_engine_runs_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_base(ModelSettings(architecture=SMALL), 42)
    save_model(tmp_path / "model", model.backbone, model.processor, {})
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "latent-engine.md").read_text(), re.DOTALL)
    names = {"FOLDER": tmp_path / "model"}
    exec(compile(code, "docs/latent-engine.md", "exec"), names)
    assert capsys.readouterr().out
    assert any(weight.grad is not None for weight in names["backbone"].parameters())
