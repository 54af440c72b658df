"""What methods, benchmarks, groups and stages are called on a page, in which order, and in which colour."""

from __future__ import annotations

from mirage_core.evaluation.blind import BLIND_SUFFIX, TEXT_RULE
from mirage_core.methods import METHODS, TRAIN_STAGES, state_stages

BENCHMARKS = {
    "vsp-planning": "VSP spatial planning",
    "vsp-reasoning": "VSP spatial reasoning",
    "vsp-questions": "VSP, questions in words",
    "mental-rotation": "Mental rotation",
    "paper-folding": "Paper folding",
    "jigsaw": "Jigsaw (BLINK)",
    "sat": "SAT, spatial aptitude",
    "comt": "CoMT",
    "blink-multi-view": "BLINK Multi-view",
    "blink-jigsaw": "BLINK Jigsaw (BLINK's own words)",
    "vstar": "V*",
    "hr-bench-4k": "HR-Bench 4K",
    "hr-bench-8k": "HR-Bench 8K",
    "mme-realworld-lite": "MME-RealWorld-Lite",
    "tablevqa": "TableVQA-Bench",
    "own": "Your own questions",
}
RULES = {
    "mirage": "Mirage's rule: the boxed moves are walked to the end; right when the FINAL cell is the goal",
    "option-letter": (
        "The letter in the box, else the option that the answer chooses by letter or text; rejected ones do not win"
    ),
    "option-letter-1": "The letter in the box, else the last “(X)”, else the option whose text the answer contains",
    "vstar-official": "lmms-eval's own reader of V*",
    "hr-bench-official": "HR-Bench's own rules, without a judge model",
    "blink-official": "BLINK's own rules, without a judge model",
    "comt-official": "CoMT's own reader",
    "sat-official": "SAT's own text match: the right option's words",
    "mme-realworld-official": "MME-RealWorld's own reader, with its faults",
    "mirage-official": "Mirage's own code: the last box's letters U, D, L, R, walked to the end",
    "vsp-official": "VSP's own code: after “Action plan: ” or “<Output>”, nothing else",
    "published-letter": (
        "The letter in the box, else the last “(X)”, else that of “the answer is X”, else a letter alone, else the "
        "only option whose text stands in the answer"
    ),
    "mme-realworld": "MME-RealWorld's own without its faults: usual openings struck out, the first capital from A to E",
    "tablevqa": "The answer in words, as TableVQA-Bench compares: values, true or false, figures with or without scale",
    "tablevqa-exact": "The answer in words, as TableVQA-Bench compares, figures with their scale only",
    "tablevqa-official": "TableVQA-Bench's own, on the box, the text after “Answer:”, or the whole answer",
    "vsp": "VSP's rule: the walk stops at the first hole or goal it enters; right when that is the goal",
}


def method_label(method: str) -> str:
    """Return a method's name for people; a method of one's own keeps its name."""
    return METHODS[method].label if method in METHODS else method


def short_label(method: str) -> str:
    """Return a method's name for a legend."""
    return method_label(method).split(" (")[0].replace(" alone", "")


def blind_label(method: str) -> str:
    """Return what answers without the picture are called: of the text-only rule, or of a method."""
    if method == TEXT_RULE:
        return "text alone, by rule"
    return f"{short_label(method.removesuffix(BLIND_SUFFIX))}, no picture"


def benchmark_label(benchmark: str) -> str:
    """Return a benchmark's name for people."""
    return BENCHMARKS.get(benchmark, benchmark)


def group_label(group: str) -> str:
    """Return ``level 3`` for ``level-3``."""
    return "all" if group == "all" else group.replace("-", " ", 1)


def stage_label(stage: str) -> str:
    """Return a stage's name for people."""
    if stage == "base":
        return "Base model, warmed up from scratch"
    if stage in state_stages():
        return state_stages()[stage].label
    return TRAIN_STAGES[stage].label if stage in TRAIN_STAGES else stage


def method_order(method: str) -> tuple[int, str]:
    """Return a sort key: the order of the registry, then other methods by name."""
    known = list(METHODS)
    return (known.index(method) if method in known else len(known), method)
