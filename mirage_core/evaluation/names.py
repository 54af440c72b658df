"""What methods, benchmarks, groups and stages are called on a page, in which order, and in which colour."""

from __future__ import annotations

METHODS = {
    "zero-shot": "Zero-shot (the base model)",
    "direct-sft": "Direct SFT",
    "capimagine": "CapImagine (imagination as text)",
    "stage-1": "Mirage, stage 1 alone",
    "stage-2": "Mirage, stage 2",
    "grpo": "Mirage + GRPO",
}
BENCHMARKS = {
    "vsp-planning": "VSP spatial planning",
    "vsp-reasoning": "VSP spatial reasoning",
    "vsp-questions": "VSP, questions in words",
    "jigsaw": "Jigsaw (BLINK)",
    "sat": "SAT, spatial aptitude",
    "comt": "CoMT",
    "own": "Your own questions",
}
STAGES = {
    "base": "Base model, warmed up from scratch",
    "direct-sft": "Direct SFT",
    "capimagine": "CapImagine",
    "grounding": "Stage 1, grounding",
    "relaxation": "Stage 2, relaxation",
    "grpo": "GRPO",
}
METHOD_STAGE = {
    "zero-shot": "base",
    "direct-sft": "direct-sft",
    "capimagine": "capimagine",
    "stage-1": "grounding",
    "stage-2": "relaxation",
}
RULES = {
    "mirage": "Mirage's rule: the boxed moves are walked to the end; right when the FINAL cell is the goal",
    "option-letter": "The letter in the box, else the last “(X)”, else the option whose own text stands in the answer",
    "vsp": "VSP's rule: the walk stops at the first hole or goal it enters; right when that is the goal",
}


def method_label(method: str) -> str:
    """Return a method's name for people; a method of one's own keeps its name."""
    return METHODS.get(method, method)


def short_label(method: str) -> str:
    """Return a method's name for a legend."""
    return method_label(method).split(" (")[0].replace(" alone", "")


def benchmark_label(benchmark: str) -> str:
    """Return a benchmark's name for people."""
    return BENCHMARKS.get(benchmark, benchmark)


def group_label(group: str) -> str:
    """Return ``level 3`` for ``level-3``."""
    return "all" if group == "all" else group.replace("-", " ", 1)


def stage_label(stage: str) -> str:
    """Return a stage's name for people."""
    return STAGES.get(stage, stage)


def method_order(method: str) -> tuple[int, str]:
    """Sort key: the road's order, then methods of one's own by name."""
    known = list(METHODS)
    return (known.index(method) if method in known else len(known), method)
