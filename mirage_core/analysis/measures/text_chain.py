r"""The same questions asked of a chain in words: what the answer does when the chain before it is edited.

The chain is all text before the last ``\boxed{`` of the clean answer. A run goes on from prompt, edited chain and open
box, so that every run must answer at once; the run "own" does so from the chain as it was, and all others are compared
with it. After Lanham et al., arXiv 2307.13702 (truncation and filler), for answers without latents. Legend: n subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirage_core.analysis.collect import Collected, stratum
from mirage_core.analysis.donors import NOBODY, Partners, derangement
from mirage_core.analysis.intervened_generation import BOX, Asker, Said
from mirage_core.analysis.measures.intervention_effect import Named, compared
from mirage_core.analysis.results import Run, TextChainResult, header
from mirage_core.analysis.subjects import extended
from mirage_core.config import AnalysisSettings
from mirage_core.types import Problem, Progress, ProgressEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edited:
    """One run before it is made: its name, the chains, and the donors where there are any."""

    named: Named
    chains: tuple[str, ...]
    partners: Partners | None = None


def text_chain(
    asker: Asker, collected: Collected, instances: Sequence[Problem], settings: AnalysisSettings, progress: Progress
) -> TextChainResult:
    """The measure, of a clean run over ``instances`` (in its order)."""
    outputs = [prediction.output for prediction, _ in collected.scored]
    spans = [bool(prediction.spans) for prediction, _ in collected.scored]
    used = np.array([at for at, text in enumerate(outputs) if BOX in text and not spans[at]], dtype=np.int64)
    chains = tuple(outputs[at].rpartition(BOX)[0] for at in used.tolist())
    problems = [instances[at] for at in used.tolist()]
    return TextChainResult(
        header=header(
            "text-chain", instances, used, num_latents=0, seed=settings.seed, notes=_notes(spans, outputs, chains)
        ),
        runs=tuple(_runs(asker, problems, chains, settings, progress)) if len(used) else (),
        mean_words=float(np.mean([len(chain.split()) for chain in chains])) if chains else None,
    )


def _notes(spans: Sequence[bool], outputs: Sequence[str], chains: Sequence[str]) -> list[str]:
    """What was left out, and when there is no chain to speak of."""
    notes = []
    if any(spans):
        notes.append(f"{sum(spans)} of {len(spans)} answers hold latents and are left out: this is of chains in words.")
    boxless = sum(BOX not in text for text in outputs)
    if boxless:
        notes.append(f"{boxless} of {len(outputs)} answers open no box and are left out.")
    if chains and not any(chain.split() for chain in chains):
        notes.append("No answer has a word before its box: there is no chain to edit.")
    return notes


def _runs(
    asker: Asker, problems: Sequence[Problem], chains: tuple[str, ...], settings: AnalysisSettings, progress: Progress
) -> list[Run]:
    """The own chain, then every edit of it beside that."""
    own = answered(asker, problems, chains)
    runs = [compared(Named(name="own", seen="present"), own, own, settings)]
    for edited in _edits(problems, chains, settings):
        said = answered(asker, problems, edited.chains)
        lent = None if edited.partners is None else (problems, edited.partners, asker.judged)
        runs.append(compared(edited.named, own, said, settings, lent=lent))
        progress(ProgressEvent(stage="measure", message=f"chain: {edited.named.name}"))
    return runs


def answered(asker: Asker, problems: Sequence[Problem], chains: Sequence[str]) -> list[Said]:
    """Answers [n] that go on from these chains and an open box."""
    written = [chain + BOX for chain in chains]
    tokenizer = asker.loaded.processor.tokenizer
    prompts = [
        extended(asker.prompt(problem), tokenizer(text, add_special_tokens=False).input_ids)
        for problem, text in zip(problems, written, strict=True)
    ]
    return asker.ask(problems, prompts=prompts, written=written, begun=True)


def _edits(problems: Sequence[Problem], chains: tuple[str, ...], settings: AnalysisSettings) -> list[_Edited]:
    """Another problem's chain, the first words only, the words in another order, no chain."""
    partners = derangement([stratum(problem) for problem in problems], settings.seed)
    lent = tuple(chains[at if by == NOBODY else by] for at, by in enumerate(partners.tolist()))
    edits = [_Edited(named=Named(name="other", seen="present"), chains=lent, partners=partners)]
    for kept in settings.chain_shares:
        named = Named(name="truncate", seen="present", scale=kept)
        edits.append(_Edited(named=named, chains=tuple(truncated(chain, kept) for chain in chains)))
    generator = np.random.default_rng(settings.seed)
    mixed = tuple(shuffled(chain, generator) for chain in chains)
    return [
        *edits,
        _Edited(named=Named(name="shuffle", seen="present"), chains=mixed),
        _Edited(named=Named(name="delete", seen="present"), chains=("",) * len(chains)),
    ]


def truncated(chain: str, kept: float) -> str:
    """The first share of a chain's words, a space behind them; none of them: nothing."""
    words = chain.split()
    first = words[: round(kept * len(words))]
    return " ".join(first) + " " if first else ""


def shuffled(chain: str, generator: np.random.Generator) -> str:
    """The words of a chain in another order, a space behind them."""
    words = chain.split()
    return " ".join(words[at] for at in generator.permutation(len(words))) + " " if words else ""
