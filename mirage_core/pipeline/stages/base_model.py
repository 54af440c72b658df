"""Stage ``base``: the model every method starts from, warmed up from scratch or taken from a hub or a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.problems import excluded_sha256
from mirage_core.pipeline.stages.train import train
from mirage_core.store.digests import DigestMemory, canonical_json

FROM_SCRATCH = "from_scratch"
_DIGESTS = DigestMemory()


def base_identity(settings: Settings) -> dict[str, Any]:
    """The model section (a folder counts by its content), how it is asked, and for a warm-up what it sees.

    Neither latents nor the variant of the chains: every method and every sweep starts from the same base.
    """
    told = {"recipe": settings.recipe, "prompt": identity(settings.prompt)}  # mirage.json tells it
    if settings.model.source == FROM_SCRATCH:
        made = settings.model.model_dump(mode="json", exclude={"lora"})  # adapters come with the stages after it
        return {"model": made, "seed": settings.seed, **seen_in_warmup(settings), **told}
    dtype = settings.model.dtype
    folder = Path(settings.model.source).expanduser()
    if folder.is_dir():
        return {"model": {"folder": folder_sha256(folder), "dtype": dtype}, **told}
    return {"model": {"source": settings.model.source, "revision": settings.model.revision, "dtype": dtype}, **told}


def seen_in_warmup(settings: Settings) -> dict[str, Any]:
    """What the maps and arrows of the warm-up look like, and which maps it never shows."""
    return {
        "maps": settings.problems.model_dump(mode="json", include={"hole_probability", "cell_px"}),
        "excluded": excluded_sha256(settings),
        "arrows": settings.auxiliary_images.model_dump(mode="json", exclude={"scenes", "jigsaw_layout"}),
    }


def run_base(context: StageContext) -> dict[str, Any]:
    """Warm a from-scratch model up, or load one, give it the latent tokens and save it so that it needs no hub."""
    if context.settings.model.source == FROM_SCRATCH:
        return {"source": FROM_SCRATCH, **train(context, "warmup")}
    return take_base(context)


def take_base(context: StageContext) -> dict[str, Any]:
    """Load the model of a hub id or a folder and save it with the latent tokens; mirage.json says where from."""
    from mirage_core.model.loading import load_model, save_model
    from mirage_core.training.model_metadata import about_base

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
        {**about_base(settings), **origin, "stage": "base"},
    )
    return {"source": settings.model.source, **origin}


def folder_sha256(folder: Path) -> str:
    """One sha256 over the names and contents of a folder's files, hidden ones apart."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    rows = [[name, _DIGESTS.sha256(path)] for name, path in names.items() if not _hidden(name)]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


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
