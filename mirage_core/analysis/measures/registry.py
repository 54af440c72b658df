"""Every measure by its name: those computed from the clean run alone, and those that generate with the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirage_core.analysis.collect import CleanRun
from mirage_core.analysis.intervened_generation import InterventionRunner
from mirage_core.analysis.measures.film import film
from mirage_core.analysis.measures.hand_made import hand_made
from mirage_core.analysis.measures.interventions import interventions
from mirage_core.analysis.measures.mediation import mediation
from mirage_core.analysis.measures.only_latents import only_latents
from mirage_core.analysis.measures.probes import probes
from mirage_core.analysis.measures.similarity import similarity
from mirage_core.analysis.measures.text_chain import text_chain
from mirage_core.analysis.results import Record
from mirage_core.config import AnalysisSettings
from mirage_core.types import Problem, Progress

STATE_MEASURES: dict[str, Callable[[CleanRun, Sequence[Problem], AnalysisSettings], Record]] = {
    "similarity": similarity,
    "probes": probes,
}
MODEL_MEASURES: dict[
    str, Callable[[InterventionRunner, CleanRun, Sequence[Problem], AnalysisSettings, Progress], Record]
] = {
    "interventions": interventions,
    "mediation": mediation,
    "only-latents": only_latents,
    "text-chain": text_chain,
    "film": film,
    "hand-made": hand_made,
}
