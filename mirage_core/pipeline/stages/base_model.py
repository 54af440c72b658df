"""Stage ``base``: the model every method starts from, warmed up from scratch or loaded from a hub or a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.latent.span_tokens import authors_metadata, family_of_folder
from mirage_core.model.card import ABOUT_FILE
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.problems import excluded_sha256
from mirage_core.pipeline.stages.train import train
from mirage_core.store.digests import DigestMemory, canonical_json

FROM_SCRATCH = "from_scratch"
_DIGESTS = DigestMemory()


def base_identity(settings: Settings) -> dict[str, Any]:
    """Return the model section (a folder counts by its content), the prompt, and for a warm-up what it is shown.

    Neither latents nor the variant of the chains: every method and every sweep starts from the same base.
    """
    metadata = {"recipe": settings.recipe, "prompt": identity(settings.prompt)}  # both stand in mirage.json
    if settings.model.source == FROM_SCRATCH:
        model = settings.model.model_dump(mode="json", exclude={"lora"})  # adapters come with the stages after it
        return {"model": model, "seed": settings.seed, **warmup_identity(settings), **metadata}
    dtype = settings.model.dtype
    folder = Path(settings.model.source).expanduser()
    if folder.is_dir():
        released = authors_metadata(family_of_folder(folder))
        rule = {"latent": released["latent"]} if released and not (folder / ABOUT_FILE).is_file() else {}
        return {"model": {"folder": folder_sha256(folder), "dtype": dtype}, **rule, **metadata}
    return {"model": {"source": settings.model.source, "revision": settings.model.revision, "dtype": dtype}, **metadata}


def warmup_identity(settings: Settings) -> dict[str, Any]:
    """Return the style of the warm-up's maps and arrows, and the maps it never shows."""
    return {
        "maps": settings.problems.model_dump(mode="json", include={"hole_probability", "cell_px"}),
        "excluded": excluded_sha256(settings),
        "arrows": settings.auxiliary_images.model_dump(mode="json", exclude={"scenes", "jigsaw_layout", "film"}),
    }


def run_base(context: StageContext) -> dict[str, Any]:
    """Warm up a model from scratch, or load one; add the latent tokens and save it, so that no hub is needed later."""
    if context.settings.model.source == FROM_SCRATCH:
        return {"source": FROM_SCRATCH, **train(context, "warmup")}
    return import_base(context)


def import_base(context: StageContext) -> dict[str, Any]:
    """Load the model of a hub id or a folder and save it with the latent tokens; mirage.json records the source.

    A model that this project trained keeps the settings that it was trained with, one that other authors released the
    rule that its latents are decoded by; training stages refuse a recipe with others.
    """
    from mirage_core.model.loading import load_model, save_model
    from mirage_core.model.readout import LatentReadout, saved_readout
    from mirage_core.model.weights import no_gather
    from mirage_core.training.checkpoint.model_metadata import base_metadata, own_settings

    settings = context.settings
    folder = Path(settings.model.source).expanduser()
    local = folder.is_dir()
    loaded = load_model(
        folder if local else settings.model.source,
        dtype=settings.model.dtype,
        attention=settings.model.attention,
        revision=None if local else settings.model.revision,
    )
    commit = getattr(loaded.backbone.model.config, "_commit_hash", None)
    origin = {"folder": folder_sha256(folder)} if local else {"source": settings.model.source, "revision": commit}
    save_model(
        context.output,
        loaded.backbone,
        loaded.processor,
        {**base_metadata(settings), **own_settings(loaded.about), **origin, "stage": "base"},
    )
    if isinstance(loaded.readout, LatentReadout):  # its latents would be other ones without it
        saved_readout(loaded.readout).save(context.output, no_gather, write=True)
    return {"source": settings.model.source, **origin}


def folder_sha256(folder: Path) -> str:
    """Return one sha256 over the names and contents of a folder's files, without hidden ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    visible = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    rows = [[name, _DIGESTS.sha256(path)] for name, path in visible.items()]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


BASE = Stage(
    name="base",
    version=2,
    kind="model",
    inputs=(),
    identity=base_identity,
    run=run_base,
    checkpoints=True,
    gpu=True,
)
