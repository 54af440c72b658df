"""Stage ``captions``: CapImagine's data, a caption in place of each image; conflicting captions are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.examples import examples_identity, write_card, write_json
from mirage_core.store.records import EXAMPLES_FILE, REJECTIONS_FILE, iter_examples, save_examples, save_rejections
from mirage_core.types import Rejection, TrainingExample

COUNTS_FILE = "captions.json"


def captions_identity(settings: Settings) -> dict[str, Any]:
    """Return the caption settings, and the teacher that writes them."""
    return {
        "captions": identity(settings.captions),
        **examples_identity(settings),
        "templates": _templates(settings),
    }


def _templates(settings: Settings) -> dict[str, Any]:
    """Return the prompts of the rounds, by content; none where the oracle writes."""
    if settings.teacher.kind == "oracle":
        return {}
    from mirage_core.teacher.prompt_templates import templates_identity

    return {kind: templates_identity(settings.teacher.template, kind) for kind in ("caption", "polish", "judge")}


def run_captions(context: StageContext) -> dict[str, Any]:
    """Caption every example, filter, and write the data set with its card; the summary counts rejections by reason."""
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.caption_examples import caption_examples

    tally, rejections, counts = Tally(), list[Rejection](), dict[str, Any]()
    several = context.settings.problems.several_images

    def written() -> Iterator[TrainingExample]:
        examples = iter_examples(context.input_paths["examples"], frames=several)
        for part in caption_examples(examples, context.settings, context.store, context.progress):
            rejections.extend(part.rejections)
            counts.update(part.usage)
            yield from tally.count_all(part.examples)

    save_examples(context.output / EXAMPLES_FILE, written(), film=several)
    save_rejections(context.output / REJECTIONS_FILE, rejections)
    kept = _counts(tally.total, rejections)
    write_json(context.output / COUNTS_FILE, {**kept, **counts})
    write_card(context, tally, rejections, captions_identity(context.settings), tests=())
    return {"examples": tally.total, **tally.splits, "teacher": ", ".join(sorted(tally.writers)) or "nobody", **kept}


def _counts(kept: int, rejections: Iterable[Rejection]) -> dict[str, Any]:
    """Count the chains that were kept, and those left out by reason."""
    reasons = Counter(rejection.reason for rejection in rejections if rejection.left_out)
    return {"kept": kept, "left_out": reasons.total(), "left_out_for": dict(sorted(reasons.items()))}


CAPTIONS = Stage(
    name="captions",
    version=1,
    kind="examples",
    inputs=("examples",),
    identity=captions_identity,
    run=run_captions,
)
