"""A few problems and a model of random weights in a store: all that the stages that can be cut need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mirage_core.config import Settings
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.shards import FanOut, Shard, in_shards, run_shard
from mirage_core.pipeline.stage import StageResult, run_stage
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent

SIZES = [
    "problems.vsp_planning={train_levels: [3], test_levels: [3, 4], train: 9, validation: 2, test_per_level: 3}",
    "problems.vsp_reasoning={train_levels: [3], test_levels: [3], train: 4, validation: 1, test_per_level: 3}",
    "evaluation.batch_size=2",
    "evaluation.max_new_tokens=4",
    "runtime.processes=1",
]
CUT = ("auxiliary-images", "examples", "evaluation")


def recipe(*more: str) -> Settings:
    """The recipe micro with a handful of problems."""
    return load("micro", [*SIZES, *more])


def silent(event: ProgressEvent) -> None:
    """Nobody reads this progress."""


def publish_model(store: Store, settings: Settings, folder: Path) -> Artifact:
    """A model of random weights, without a warm-up."""
    model = build_base_model(settings.model, settings.seed)
    save_model(folder, model.backbone, model.processor, {"recipe": settings.recipe, "stage": "base"})
    return store.publish("model", "0" * 64, folder, summary={}, about={})


class World:
    """Takes the stages one after the other, cut as the settings say."""

    def __init__(self, store: Store, settings: Settings, model: Artifact) -> None:
        self.store = store
        self.settings = settings
        problems = run_stage(get_stage("problems"), settings, {}, store, silent).artifact
        self.inputs = {"problems": problems, "model": model}

    @classmethod
    def create(cls, root: Path, model_folder: Path) -> World:
        """A store below ``root`` with the saved model and the problems."""
        store = Store.open(root / "store", cache=root / "cache")
        return cls(store, recipe(), store.publish("model", "0" * 64, model_folder, summary={}, about={}))

    def take(self, name: str, fan_out: FanOut, *more: str, progress: Progress = silent) -> StageResult:
        """Run one stage, its inputs what earlier calls have made; ``more`` are settings."""
        stage = get_stage(name)
        inputs = {key: self.inputs[key] for key in stage.inputs or ()}
        params = {"method": "stage-2"} if stage.params else {}
        settings = load("micro", [*SIZES, *more])
        result = run_stage(in_shards(stage, settings, fan_out), settings, inputs, self.store, progress, params)
        self.inputs[name.replace("-", "_")] = result.artifact
        return result

    def all(self, fan_out: FanOut, *more: str) -> dict[str, Artifact]:
        """Run every stage that can be cut."""
        return {name: self.take(name, fan_out, *more).artifact for name in CUT}


def here(store: Store, before: Callable[[Shard], None] = lambda shard: None) -> FanOut:
    """A fan-out that makes one shard after the other in this process; ``before`` is told of each."""

    def fan_out(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
        artifacts = []
        for shard in shards:
            before(shard)
            artifacts.append(run_shard(shard, store, progress).artifact)
        return artifacts

    return fan_out


def refuses(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
    """A fan-out that nobody may ask."""
    raise AssertionError("the work was fanned out")
