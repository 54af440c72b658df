"""What was measured of a cell's latents, as one wants it: no model is asked."""

from __future__ import annotations

from mirage_core.analysis.results import InterventionsResult
from tests.analysis import made


def measured(lost: int, won: int, follow: int, *, clean: int = 80, zero: int = 70, n: int = 100) -> InterventionsResult:
    """Of n answers ``clean`` are right; another's latents lose and win some, a swap follows ``follow`` times."""
    figures = {"n": n, "clean": clean}
    runs = (
        made.run("own", **figures),
        made.run("zero", **figures, only_clean=zero),
        made.run("permute", **figures, way="vectors", only_clean=1),
        made.run("permute", **figures, way="states", only_clean=lost, only_here=won),
        made.run("permute", **figures, way="states", only_clean=3, seen="hidden"),
        made.run("swap", **figures, way="vectors", only_clean=1, follow=1, follow_clean=0),
        made.run("swap", **figures, way="states", only_clean=lost, follow=follow, follow_clean=2),
    )
    return InterventionsResult(header=made.header("interventions", n), runs=runs, dose=(), latent_std=1.0)
