"""A store, small settings, and stages that do nothing but write a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.types import ProgressEvent

SCORES = [
    {
        "benchmark": "vsp-planning",
        "level": "3",
        "accuracy": 0.5,
        "interval": [0.4, 0.6],
        "n": 10,
        "unparsed": 1,
        "latent_share": 1.0,
        "rule": "mirage",
    }
]


class Events:
    """Collects progress events."""

    def __init__(self) -> None:
        self.seen: list[ProgressEvent] = []

    def __call__(self, event: ProgressEvent) -> None:
        self.seen.append(event)

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.seen]


def settings(**changes: Any) -> Settings:
    """Settings of a recipe called fake."""
    return Settings.model_validate({"recipe": "fake", **changes})


def stage(run: Callable[[StageContext], dict[str, Any]], **changes: Any) -> Stage:
    """A stage without inputs that does ``run``."""
    fake = Stage(name="fake", version=1, kind="fake", inputs=(), identity=lambda chosen: {"seed": chosen.seed}, run=run)
    return dataclasses.replace(fake, **changes)


def write_one(context: StageContext) -> dict[str, Any]:
    """Write one file with the fingerprint and the digests of the inputs."""
    digests = {name: artifact.digest for name, artifact in context.inputs.items()}
    text = json.dumps([context.fingerprint, digests])
    (context.output / "result.json").write_text(text)
    scores = [{**row, "method": context.params["method"]} for row in SCORES] if context.params else []
    return {"scores": scores}


def fake_stages(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[str, StageContext], dict[str, Any]] | None = None
) -> list[str]:
    """Let every stage of the pipeline write one file only; returns the list that names what ran."""
    ran: list[str] = []

    def runner(name: str) -> Callable[[StageContext], dict[str, Any]]:
        def work(context: StageContext) -> dict[str, Any]:
            ran.append("/".join([name, *context.params.values()]))
            return run(name, context) if run else write_one(context)

        return work

    for name, real in list(registry.STAGES.items()):
        monkeypatch.setitem(registry.STAGES, name, dataclasses.replace(real, run=runner(name)))
    return ran
