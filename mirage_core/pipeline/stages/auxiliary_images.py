"""Stage ``auxiliary-images``: for every problem, the picture a chain imagines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Cut, Share, Stage, StageContext
from mirage_core.store.records import (
    AUXILIARY_IMAGES_FILE,
    count_problems,
    iter_auxiliary_images,
    iter_problems,
    load_given,
    save_auxiliary_images,
)
from mirage_core.types import AuxiliaryImage, Problem


def auxiliary_images_identity(settings: Settings) -> dict[str, Any]:
    """The style of the pictures, the size of a cell, and the seed (steps of plans, noise of scenes)."""
    return {
        "auxiliary_images": {**identity(settings.auxiliary_images), "scenes": _scenes_identity(settings)},
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
    }


def _scenes_identity(settings: Settings) -> dict[str, Any] | None:
    """The scene settings that change a frame; local models and files count by their content."""
    from mirage_core.benchmarks.io.content_digest import content_of

    scenes = settings.auxiliary_images.scenes
    if scenes is None:
        return None
    places = {name: content_of(getattr(scenes, name)) for name in ("model", "lora", "descriptions")}
    return {**scenes.model_dump(mode="json", exclude={"finetuning"}), **places}


def run_auxiliary_images(context: StageContext) -> dict[str, Any]:
    """Draw one picture a problem; the summary counts them by style."""
    return run_share(context, Share(index=0, count=1))


def run_share(context: StageContext, share: Share) -> dict[str, Any]:
    """Draw the pictures of a share of the problems, one after the other: memory does not grow with their number."""
    from mirage_core.synthesis import drawn_auxiliary_images

    folder, settings = context.input_paths["problems"], context.settings
    begin, end = share.bounds(count_problems(folder))
    drawn = drawn_auxiliary_images(
        islice(iter_problems(folder), begin, end),
        settings.auxiliary_images,
        settings.problems.cell_px,
        settings.seed,
        context.progress,
        {**_given(context), **_scenes(context, islice(iter_problems(folder), begin, end))},
        end - begin,
    )
    return _save(context, drawn)


def merge_shares(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Put the pictures of all shares into one table, in the order of the problems."""
    return _save(context, chain.from_iterable(map(iter_auxiliary_images, folders)))


def _given(context: StageContext) -> dict[str, AuxiliaryImage]:
    """What data sets brought with their problems."""
    given = load_given(context.input_paths["problems"])
    return {name: AuxiliaryImage(problem_id=name, image=one.image, style=one.style) for name, one in given.items()}


def _scenes(context: StageContext, problems: Iterable[Problem]) -> dict[str, AuxiliaryImage]:
    """Rendered scenes of the problems that are trained on; frames are kept one by one, so a killed run goes on."""
    settings, runtime = context.settings.auxiliary_images.scenes, context.settings.runtime
    if settings is None:
        return {}
    wanted = [problem for problem in problems if problem.benchmark == "sat" and problem.split != "test"]
    if not wanted:
        return {}
    from mirage_core.synthesis.scenes import draw_scenes

    drawn = draw_scenes(
        wanted,
        settings,
        context.settings.seed,
        context.scratch / "frames",
        context.progress,
        batch_size=runtime.scene_batch_size,
        offload=runtime.scene_offload,
    )
    return {image.problem_id: image for image in drawn}


def _save(context: StageContext, drawn: Iterable[AuxiliaryImage]) -> dict[str, Any]:
    styles: Counter[str] = Counter()

    def noted() -> Iterator[AuxiliaryImage]:
        for image in drawn:
            styles[image.style] += 1
            yield image

    save_auxiliary_images(context.output / AUXILIARY_IMAGES_FILE, noted())
    return {"pictures": styles.total(), **dict(sorted(styles.items()))}


AUXILIARY_IMAGES = Stage(
    name="auxiliary-images",
    version=1,
    kind="auxiliary-images",
    inputs=("problems",),
    identity=auxiliary_images_identity,
    run=run_auxiliary_images,
    keeps_scratch=True,
    cut=Cut(pieces=lambda context: count_problems(context.input_paths["problems"]), run=run_share, merge=merge_shares),
)
