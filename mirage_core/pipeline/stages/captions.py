"""Stage ``captions``: CapImagine's data, a caption where each picture stood; what conflicts is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.examples import CARD_FILE, examples_identity, write_card, write_json
from mirage_core.store.records import EXAMPLES_FILE, REJECTIONS_FILE, iter_examples, save_examples, save_rejections
from mirage_core.types import Rejection, TrainingExample

COUNTS_FILE = "captions.json"


def captions_identity(settings: Settings) -> dict[str, Any]:
    """The caption settings, and the teacher that writes them."""
    return {
        "captions": identity(settings.captions),
        **examples_identity(settings),
        "templates": _templates(settings),
    }


def _templates(settings: Settings) -> dict[str, Any]:
    """The prompts of the rounds, by content; none where the oracle writes."""
    if settings.teacher.kind == "oracle":
        return {}
    from mirage_core.llm_client.prompt_templates import templates_identity

    return {kind: templates_identity(settings.teacher.template, kind) for kind in ("caption", "polish", "judge")}


def run_captions(context: StageContext) -> dict[str, Any]:
    """Caption every example, filter, and write the data set with its card; the summary counts what went and why."""
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.caption_examples import captioned

    tally, rejections, counts = Tally(), list[Rejection](), dict[str, Any]()

    def written() -> Iterator[TrainingExample]:
        examples = iter_examples(context.input_paths["examples"])
        for part in captioned(examples, context.settings, context.store, context.progress):
            rejections.extend(part.rejections)
            counts.update(part.account)
            yield from tally.noted(part.examples)

    save_examples(context.output / EXAMPLES_FILE, written())
    save_rejections(context.output / REJECTIONS_FILE, rejections)
    told = _told(tally.total, rejections)
    write_json(context.output / COUNTS_FILE, {**told, **counts})
    write_card(context, tally, rejections, captions_identity(context.settings), tests=())
    return {"examples": tally.total, **tally.splits, "teacher": ", ".join(sorted(tally.writers)) or "nobody", **told}


def _told(kept: int, rejections: Iterable[Rejection]) -> dict[str, Any]:
    """How many chains were kept, and why the others went."""
    went: dict[str, int] = {}
    for rejection in rejections:
        if rejection.left_out:
            went[rejection.reason] = went.get(rejection.reason, 0) + 1
    gone: Mapping[str, int] = dict(sorted(went.items()))
    return {"kept": kept, "left_out": sum(gone.values()), "left_out_for": dict(gone)}


CAPTIONS = Stage(
    name="captions",
    version=1,
    kind="examples",
    inputs=("examples",),
    identity=captions_identity,
    run=run_captions,
)
__all__ = ["CAPTIONS", "CARD_FILE", "captions_identity", "run_captions"]
