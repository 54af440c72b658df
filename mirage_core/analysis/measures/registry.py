"""Every measure by its name: those that need the clean run alone, and those that ask the model again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirage_core.analysis.collect import Collected
from mirage_core.analysis.intervened_generation import Asker
from mirage_core.analysis.measures.interventions import interventions
from mirage_core.analysis.measures.mediation import mediation
from mirage_core.analysis.measures.only_latents import only_latents
from mirage_core.analysis.measures.probes import probes
from mirage_core.analysis.measures.similarity import similarity
from mirage_core.analysis.measures.text_chain import text_chain
from mirage_core.analysis.results import Record
from mirage_core.config import AnalysisSettings
from mirage_core.types import Problem, Progress

FROM_STATES: dict[str, Callable[[Collected, Sequence[Problem], AnalysisSettings], Record]] = {
    "similarity": similarity,
    "probes": probes,
}
ON_THE_MODEL: dict[str, Callable[[Asker, Collected, Sequence[Problem], AnalysisSettings, Progress], Record]] = {
    "interventions": interventions,
    "mediation": mediation,
    "only-latents": only_latents,
    "text-chain": text_chain,
}
