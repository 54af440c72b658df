"""X -> Z by similarity: how much latents differ between inputs, and within one answer.

Inter-instance similarity is the mean off-diagonal pairwise cosine between instances at one latent index,
intra-instance that between the indices of one instance; text and image states are the baselines. The formula of
arXiv 2602.22766 is not published; this follows its text. Legend: N instances, J positions, D hidden, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import Floats, bootstrap, bootstrap_mean, jackknife
from mirage_core.analysis.collect import CleanRun, span_header, stratum
from mirage_core.analysis.measures import geometry
from mirage_core.analysis.results import Estimate, IndexSimilarity, SimilarityResult, StateSimilarity
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import Units, picture_units
from mirage_core.types import Problem

Kind = Literal["latents", "text", "image"]


def similarity(clean_run: CleanRun, problems: Sequence[Problem], settings: AnalysisSettings) -> SimilarityResult:
    """Measure similarity, from a clean run over ``problems`` (in its order)."""
    kinds: list[tuple[Kind, Tensor, Tensor]] = [
        ("latents", clean_run.latents, clean_run.has_span),
        ("text", clean_run.text, clean_run.has_text),
        ("image", clean_run.image, clean_run.has_image),
    ]
    return SimilarityResult(
        header=span_header("similarity", clean_run, problems, settings),
        states=tuple(
            state_similarity(
                kind, states[present].double().numpy(), _groups(problems, present), settings, _units(problems, present)
            )
            for kind, states, present in kinds
            if int(present.sum()) >= 2
        ),
    )


def state_similarity(
    kind: Kind, states: Floats, groups: Sequence[str], settings: AnalysisSettings, units: Units | None = None
) -> StateSimilarity:
    """The similarity of one kind of states [N, J, D], of two or more instances in the groups [N], resampled by unit."""
    centred = states - states.mean(0)
    size = geometry.root_mean_square(states)
    within = geometry.cosines(states)
    return StateSimilarity(
        states=kind,
        n=len(states),
        by_index=tuple(_at_index(index, states, groups, settings, units) for index in range(states.shape[1])),
        intra=_mean(geometry.mean_within(within), settings, units),
        intra_centred=_mean(geometry.mean_within(geometry.cosines(centred, size)), settings, units),
        intra_matrix=tuple(tuple(float(cell) for cell in row) for row in _known_mean(within)),
        instance_share=_share(0, states, settings, units),
        index_share=_share(1, states, settings, units),
        rest_share=_share(2, states, settings, units),
    )


def _mean(values: Floats, settings: AnalysisSettings, units: Units | None) -> Estimate:
    return bootstrap_mean(values, settings.resamples, settings.seed, units)


def _share(part: int, states: Floats, settings: AnalysisSettings, units: Units | None) -> Estimate:
    """One share of the two-way table of states [N, J, D]: 0 of the instance, 1 of the position, 2 of the rest."""
    return bootstrap(
        lambda weights: geometry.two_way_shares(states, weights)[part],
        len(states),
        settings.resamples,
        settings.seed,
        units,
    )


def _at_index(
    index: int, states: Floats, groups: Sequence[str], settings: AnalysisSettings, units: Units | None
) -> IndexSimilarity:
    """The similarity between instances of the states at one position."""
    vectors = states[:, index]
    pairs = geometry.cosines(vectors)
    centred = geometry.cosines(vectors - vectors.mean(0), geometry.root_mean_square(vectors))
    count, resamples, seed = len(vectors), settings.resamples, settings.seed
    return IndexSimilarity(
        index=index,
        inter=bootstrap(lambda weights: geometry.mean_between(pairs, weights), count, resamples, seed, units),
        inter_centred=bootstrap(lambda weights: geometry.mean_between(centred, weights), count, resamples, seed, units),
        effective_rank=jackknife(lambda subset: geometry.effective_rank(vectors[subset]), count, seed, units),
        energy_share=bootstrap(lambda weights: geometry.energy_share(vectors, weights), count, resamples, seed, units),
        group_share=bootstrap(
            lambda weights: geometry.group_share(vectors, groups, weights), count, resamples, seed, units
        ),
        group_share_chance=(len(set(groups)) - 1) / (count - 1),
    )


def _known_mean(within: Floats) -> Floats:
    """Mean cosine of every two positions [J, J] over instances [N, J, J]; 0 where none has a direction."""
    known = np.isfinite(within)
    total = np.where(known, within, 0.0).sum(0)
    return np.asarray(total / np.maximum(known.sum(0), 1))


def _units(problems: Sequence[Problem], present: Tensor) -> Units:
    return picture_units([problems[at] for at in np.flatnonzero(present.numpy()).tolist()])


def _groups(problems: Sequence[Problem], present: Tensor) -> list[str]:
    indices: NDArray[np.int64] = np.flatnonzero(present.numpy())
    return ["/".join(stratum(problems[at])) for at in indices.tolist()]
