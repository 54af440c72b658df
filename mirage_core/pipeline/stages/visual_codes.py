"""Stage ``visual-codes``: a codebook of the auxiliary images as the base model sees them, and examples with codes."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.examples import write_card
from mirage_core.store.records import EXAMPLES_FILE, iter_examples, save_examples
from mirage_core.types import Rejection

_LATENT = {"num_latents", "compression", "length", "max_latents"}
"""How many codes an example has, and how its image is pooled to them: as it would be to latents."""


def visual_codes_identity(settings: Settings) -> dict[str, Any]:
    """Return what the codebook is made of, how images are encoded and pooled, and the seed of k-means."""
    section = settings.visual_tokens
    return {
        "codebook": {name: value for name, value in identity(section).items() if name.startswith("codebook")},
        "latent": settings.latent.model_dump(mode="json", include=_LATENT),
        "prompt": identity(settings.prompt),
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention"}),
        "seed": settings.seed,
    }


def run_visual_codes(context: StageContext) -> dict[str, Any]:
    """Make the codebook and quantise every example; write both, the sheet of the codes' patches, and the card.

    The summary tells how many codes occur, and the share of the variance of what was quantised that they explain.
    """
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.distributed.collectives import process_device
    from mirage_core.model.loading import load_model
    from mirage_core.training.data.visual_tokens.pictures import PictureReader
    from mirage_core.training.data.visual_tokens.quantise import Quantiser, make_codes, save_codebook

    settings, examples = context.settings, context.input_paths["examples"]
    model = load_model(
        context.input_paths["model"],
        dtype=settings.model.dtype,
        attention=settings.model.attention,
        device=process_device(),
    )
    model.backbone.eval()
    reader = PictureReader.of(model, settings)
    book, sheet = make_codes(reader, examples, settings.visual_tokens, settings.seed)
    save_codebook(context.output, book)
    sheet.save(context.output)
    tally, quantiser = Tally(), Quantiser(reader, book)
    coded = quantiser.quantised(iter_examples(examples), context.progress)
    save_examples(context.output / EXAMPLES_FILE, tally.count_all(coded))
    write_card(context, tally, list[Rejection](), visual_codes_identity(settings), tests=())
    return {
        "examples": tally.total,
        **tally.splits,
        "teacher": ", ".join(sorted(tally.writers)) or "nobody",
        "codes": len(book.codes),
        "codes_used": len(quantiser.used),
        "explained": round(quantiser.explained, 4),
    }


VISUAL_CODES = Stage(
    name="visual-codes",
    version=1,
    kind="examples",
    inputs=("examples", "model"),
    identity=visual_codes_identity,
    run=run_visual_codes,
    gpu=True,
)
