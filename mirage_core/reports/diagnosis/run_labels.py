"""Labels of interventions and of image access, the same on every page and in a terminal, and their order."""

from __future__ import annotations

from mirage_core.analysis.results import ImageAccess, Run, Way

_ACCESS: dict[ImageAccess, str] = {
    ImageAccess.FULL: "image in view",
    ImageAccess.MASKED_AFTER_SPAN: "image cut off after the latents",
    ImageAccess.NONE: "no image",
}
_RUNS = {
    "own": "own latents",
    "own-alone": "own latents, text sees nothing else",
    "blind": "no picture at all, latents of its own",
    "clamp": "clamped to one tensor",
    "mean": "mean latents",
    "zero": "zeros",
    "noise": "noise added",
    "noise-only": "noise only",
    "permute": "another problem's latents",
    "swap": "latents of a problem with another answer",
    "skip": "span skipped",
    "other": "another problem's chain",
    "truncate": "chain cut short",
    "shuffle": "words shuffled",
    "delete": "chain deleted",
}
_WAYS = {"vectors": ", vectors", "states": ", keys and values", None: ""}
_FIRST = ("own", "permute", "swap")
_ORDER = (*_FIRST, *(name for name in _RUNS if name not in _FIRST))


def access_label(access: ImageAccess) -> str:
    """The label of an image access."""
    return _ACCESS[access]


def run_label(run: Run) -> str:
    """The label of a run: ``noise added x 2``, ``another problem's latents, vectors``."""
    return intervention_label(run.name, run.scale, run.way)


def intervention_label(name: str, scale: float | None, way: Way | None) -> str:
    """The label of an intervention: its name, its scale, and the way latents are patched."""
    return f"{_RUNS.get(name, name)}{'' if scale is None else f' x {scale:g}'}{_WAYS[way]}"


def run_order(run: Run) -> tuple[int, int, str, float]:
    """Sort key: full image access first, exchanges before other interventions, small scales first."""
    place = _ORDER.index(run.name) if run.name in _ORDER else len(_ORDER)
    return (list(ImageAccess).index(run.seen), place, run.way or "", run.scale or 0.0)
