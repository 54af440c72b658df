"""Stage ``auxiliary-images``: for every problem, the image that its reasoning chain imagines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Sharding, ShardSpec, Stage, StageContext
from mirage_core.store.records import (
    AUXILIARY_IMAGES_FILE,
    count_problems,
    iter_auxiliary_images,
    iter_problems,
    load_provided_images,
    save_auxiliary_images,
)
from mirage_core.types import AuxiliaryImage, Problem

WAVE = 2
"""Raised when a film ``wave`` shows something else: 2 begins at the goal and spreads to the end."""


def auxiliary_images_identity(settings: Settings) -> dict[str, Any]:
    """Return the style of the images, the cell size, and the seed (steps of plans, noise of scenes)."""
    return {
        **({"wave": WAVE} if settings.auxiliary_images.film == "wave" else {}),
        "auxiliary_images": {**identity(settings.auxiliary_images), "scenes": _scenes_identity(settings)},
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
    }


def _scenes_identity(settings: Settings) -> dict[str, Any] | None:
    """Return the scene settings that change a frame; local models and files count by their content."""
    from mirage_core.benchmarks.io.content_digest import content_of

    scenes = settings.auxiliary_images.scenes
    if scenes is None:
        return None
    contents = {name: content_of(getattr(scenes, name)) for name in ("model", "lora", "descriptions")}
    unused = {"finetuning"} if settings.auxiliary_images.film != "off" else {"finetuning", "film_frames"}
    return {**scenes.model_dump(mode="json", exclude=unused), **contents}


def run_auxiliary_images(context: StageContext) -> dict[str, Any]:
    """Draw one image a problem; the summary counts them by style."""
    return draw_shard(context, ShardSpec(index=0, count=1))


def draw_shard(context: StageContext, spec: ShardSpec) -> dict[str, Any]:
    """Draw the images of a shard of the problems one by one: memory does not grow with their number."""
    from mirage_core.synthesis import iter_auxiliary_images

    folder, settings = context.input_paths["problems"], context.settings
    begin, end = spec.bounds(count_problems(folder))
    drawn = iter_auxiliary_images(
        islice(iter_problems(folder), begin, end),
        settings.auxiliary_images,
        settings.problems.cell_px,
        settings.seed,
        context.progress,
        {**_provided(context), **_scenes(context, islice(iter_problems(folder), begin, end))},
        end - begin,
    )
    return _save(context, drawn)


def merge_shards(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Write the images of all shards into one table, in the order of the problems."""
    return _save(context, chain.from_iterable(map(iter_auxiliary_images, folders)))


def _provided(context: StageContext) -> dict[str, AuxiliaryImage]:
    """Return the images that data sets have for their problems."""
    provided = load_provided_images(context.input_paths["problems"])
    return {
        name: AuxiliaryImage(problem_id=name, image=item.image, style=item.style, frames=item.frames)
        for name, item in provided.items()
    }


def _scenes(context: StageContext, problems: Iterable[Problem]) -> dict[str, AuxiliaryImage]:
    """Render scenes for the problems to train on; frames are saved one by one, so that a killed run resumes."""
    settings, runtime = context.settings.auxiliary_images.scenes, context.settings.runtime
    if settings is None:
        return {}
    selected = [problem for problem in problems if problem.benchmark == "sat" and problem.split != "test"]
    if not selected:
        return {}
    from mirage_core.synthesis.scenes import draw_scenes

    drawn = draw_scenes(
        selected,
        settings,
        context.settings.seed,
        context.scratch / "frames",
        context.progress,
        batch_size=runtime.scene_batch_size,
        offload=runtime.scene_offload,
        film=context.settings.auxiliary_images.film != "off",
    )
    return {image.problem_id: image for image in drawn}


def _save(context: StageContext, drawn: Iterable[AuxiliaryImage]) -> dict[str, Any]:
    styles: Counter[str] = Counter()

    def counted() -> Iterator[AuxiliaryImage]:
        for image in drawn:
            styles[image.style] += 1
            yield image

    save_auxiliary_images(context.output / AUXILIARY_IMAGES_FILE, counted(), film=context.settings.keeps_frames)
    return {"pictures": styles.total(), **dict(sorted(styles.items()))}


AUXILIARY_IMAGES = Stage(
    name="auxiliary-images",
    version=1,
    kind="auxiliary-images",
    inputs=("problems",),
    identity=auxiliary_images_identity,
    run=run_auxiliary_images,
    keeps_scratch=True,
    sharding=Sharding(
        max_shards=lambda context: count_problems(context.input_paths["problems"]), run=draw_shard, merge=merge_shards
    ),
)
