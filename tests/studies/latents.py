"""What was measured of a cell's latents, as one wants it: no model is asked."""

from __future__ import annotations

from mirage_core.analysis.results import InterventionsResult
from tests.analysis import fake_results


def measured(lost: int, won: int, follow: int, *, clean: int = 80, zero: int = 70, n: int = 100) -> InterventionsResult:
    """Of n answers ``clean`` are right; another's latents lose and win some, a swap follows ``follow`` times."""
    figures = {"n": n, "clean": clean}
    runs = (
        fake_results.run("own", **figures),
        fake_results.run("zero", **figures, only_clean=zero),
        fake_results.run("permute", **figures, way="vectors", only_clean=1),
        fake_results.run("permute", **figures, way="states", only_clean=lost, only_here=won),
        fake_results.run("permute", **figures, way="states", only_clean=3, seen="hidden"),
        fake_results.run("swap", **figures, way="vectors", only_clean=1, follow=1, follow_clean=0),
        fake_results.run("swap", **figures, way="states", only_clean=lost, follow=follow, follow_clean=2),
    )
    return InterventionsResult(header=fake_results.header("interventions", n), runs=runs, dose=(), latent_std=1.0)
