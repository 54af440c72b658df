"""Latents as the only visual input: what answers are worth when the picture is hidden and its latents are fed.

The clean run's latents are fed under a hidden picture: then, text behind the span sees prompt and latents; and, in the
strictest run, nothing but the latents. Beside them other latents under the same, chance, and the picture itself.
Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis import replacements, views
from mirage_core.analysis.asking import Asker, Change, fed
from mirage_core.analysis.chance import chances
from mirage_core.analysis.collected import Collected
from mirage_core.analysis.comparing import Named, compared
from mirage_core.analysis.head import header, without_span
from mirage_core.analysis.partners import derangement
from mirage_core.analysis.result import OnlyLatentsResult, Run
from mirage_core.analysis.subjects import Subjects, subjects
from mirage_core.config import AnalysisSettings
from mirage_core.model.intervention import Interventions
from mirage_core.types import Problem, Progress, ProgressEvent


def only_latents(
    asker: Asker, collected: Collected, instances: Sequence[Problem], settings: AnalysisSettings, progress: Progress
) -> OnlyLatentsResult:
    """The measure, of a clean run over ``instances`` (in its order)."""
    among = subjects(asker, collected, instances)
    used = collected.with_span()
    clean = [one.prediction for one in among.clean]
    return OnlyLatentsResult(
        header=header(
            "only-latents",
            instances,
            used,
            num_latents=collected.num_latents,
            seed=settings.seed,
            notes=without_span(len(instances), len(used)),
        ),
        runs=tuple(_runs(asker, among, settings, progress)) if len(used) else (),
        chance=chances(among.problems, clean, asker.judged, settings),
    )


def _runs(asker: Asker, among: Subjects, settings: AnalysisSettings, progress: Progress) -> list[Run]:
    """Own latents under ever less of the picture, then other latents under a hidden one; all beside the clean run."""
    latents, seed = among.latents, settings.seed
    runs = [compared(Named(name="own", seen="present"), among.clean, among.clean, settings)]
    changes: list[tuple[Named, Change]] = [
        (Named(name="own", seen="cut"), views.feeding(asker, "cut", latents)),
        (Named(name="own", seen="hidden"), views.feeding(asker, "hidden", latents)),
        (Named(name="own-alone", seen="hidden"), _alone(latents)),
        (Named(name="zero", seen="hidden"), views.feeding(asker, "hidden", latents.new_zeros(latents.shape))),
        (
            Named(name="noise-only", seen="hidden"),
            views.feeding(asker, "hidden", replacements.noise_only(latents, seed)),
        ),
    ]
    for named, change in changes:
        runs.append(compared(named, among.clean, among.run(asker, change), settings))
        progress(ProgressEvent(stage="measure", message=f"{named.name}, picture {named.seen}"))
    partners = derangement(among.strata, seed)
    named = Named(name="permute", seen="hidden", way="vectors")
    said = among.run(asker, views.feeding(asker, "hidden", replacements.lent(latents, partners)))
    return [*runs, compared(named, among.clean, said, settings, lent=(among.problems, partners, asker.judged))]


def _alone(latents: Tensor) -> Change:
    """No picture, and text behind the span sees the vectors of the latents alone."""

    def change(index: NDArray[np.int64]) -> Interventions:
        base = Interventions(image="hidden", bottleneck="latent_only")
        return replace(base, latents=fed(latents, index))

    return change
