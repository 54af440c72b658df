r"""Interventions on a reasoning chain in words: what the answer does when the chain before it is edited.

The chain is all text before the last ``\boxed{`` of the clean answer. A run continues from prompt, edited chain and
open box, so that it must answer at once; the run "own" does so from the unedited chain, and all others are compared
with it. After Lanham et al., arXiv 2307.13702 (truncation and filler), for answers without latents. Legend: n subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirage_core.analysis.collect import CleanRun, stratum
from mirage_core.analysis.donors import NO_DONOR, Donors, derangement
from mirage_core.analysis.intervened_generation import BOX, GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures.intervention_effect import Patching, RunLabel, compare
from mirage_core.analysis.results import ImageAccess, Run, TextChainResult, make_header
from mirage_core.analysis.subjects import extended
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import picture_units
from mirage_core.types import Problem, Progress, ProgressEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChainEdit:
    """One run to generate: its name, the edited chains [n], and the donors where the chains are another problem's."""

    name: str
    chains: tuple[str, ...]
    donors: Donors | None = None
    scale: float | None = None


def text_chain(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> TextChainResult:
    """Measure the edits, from a clean run over ``instances`` (in its order)."""
    outputs = [prediction.output for prediction, _ in clean_run.scored]
    has_latents = [bool(prediction.spans) for prediction, _ in clean_run.scored]
    used = np.array([at for at, text in enumerate(outputs) if BOX in text and not has_latents[at]], dtype=np.int64)
    chains = tuple(outputs[at].rpartition(BOX)[0] for at in used.tolist())
    problems = [instances[at] for at in used.tolist()]
    notes = _notes(has_latents, outputs, chains)
    return TextChainResult(
        header=make_header("text-chain", instances, used, num_latents=0, seed=settings.seed, notes=notes),
        runs=tuple(_runs(runner, problems, chains, settings, progress)) if len(used) else (),
        mean_words=float(np.mean([len(chain.split()) for chain in chains])) if chains else None,
    )


def _notes(has_latents: Sequence[bool], outputs: Sequence[str], chains: Sequence[str]) -> list[str]:
    """What was left out, and whether there is a chain at all."""
    notes = []
    if any(has_latents):
        notes.append(
            f"{sum(has_latents)} of {len(has_latents)} answers hold latents and are left out: this is of chains in "
            "words."
        )
    boxless = sum(BOX not in text for text in outputs)
    if boxless:
        notes.append(f"{boxless} of {len(outputs)} answers open no box and are left out.")
    if chains and not any(chain.split() for chain in chains):
        notes.append("No answer has a word before its box: there is no chain to edit.")
    return notes


def _runs(
    runner: InterventionRunner,
    problems: Sequence[Problem],
    chains: tuple[str, ...],
    settings: AnalysisSettings,
    progress: Progress,
) -> list[Run]:
    """The run with the own chain, then one for every edit, compared with it."""
    own, units = generate_from_chains(runner, problems, chains), picture_units(problems)
    runs = [compare(RunLabel(name="own", seen=ImageAccess.FULL), own, own, settings, units=units)]
    for edit in _edits(problems, chains, settings):
        answers = generate_from_chains(runner, problems, edit.chains)
        label = RunLabel(name=edit.name, seen=ImageAccess.FULL, scale=edit.scale)
        patching = None if edit.donors is None else Patching(problems, edit.donors, runner.is_correct)
        runs.append(compare(label, own, answers, settings, patching=patching, units=units))
        progress(ProgressEvent(stage="measure", message=f"chain: {edit.name}"))
    return runs


def generate_from_chains(
    runner: InterventionRunner, problems: Sequence[Problem], chains: Sequence[str]
) -> list[GeneratedAnswer]:
    """Answers [n] that continue from these chains and an open box."""
    prefixes = [chain + BOX for chain in chains]
    tokenizer = runner.loaded.processor.tokenizer
    prompts = [
        extended(runner.prompt(problem), tokenizer(text, add_special_tokens=False).input_ids)
        for problem, text in zip(problems, prefixes, strict=True)
    ]
    return runner.generate(problems, prompts=prompts, prefix_text=prefixes, prefix_in_answer_box=True)


def _edits(problems: Sequence[Problem], chains: tuple[str, ...], settings: AnalysisSettings) -> list[_ChainEdit]:
    """Another problem's chain, the first words only, the words in random order, no chain."""
    donors = derangement([stratum(problem) for problem in problems], settings.seed, picture_units(problems))
    donated = tuple(chains[at if donor == NO_DONOR else donor] for at, donor in enumerate(donors.tolist()))
    generator = np.random.default_rng(settings.seed)
    return [
        _ChainEdit(name="other", chains=donated, donors=donors),
        *(
            _ChainEdit(name="truncate", scale=share, chains=tuple(truncated(chain, share) for chain in chains))
            for share in settings.chain_shares
        ),
        _ChainEdit(name="shuffle", chains=tuple(shuffled(chain, generator) for chain in chains)),
        _ChainEdit(name="delete", chains=("",) * len(chains)),
    ]


def truncated(chain: str, share: float) -> str:
    """The first ``share`` of a chain's words and a trailing space; the empty string where that is no word."""
    words = chain.split()
    first = words[: round(share * len(words))]
    return " ".join(first) + " " if first else ""


def shuffled(chain: str, generator: np.random.Generator) -> str:
    """The words of a chain in random order and a trailing space."""
    words = chain.split()
    return " ".join(words[at] for at in generator.permutation(len(words))) + " " if words else ""
