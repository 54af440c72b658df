"""What a model may answer: every benchmark's scorer under every rule, the teacher's and the judges' readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from mirage_core import benchmarks
from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.config import TeacherSettings
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.endpoint import read_chain
from mirage_core.teacher.endpoint_captions import read_polished, read_verdict
from mirage_core.types import Problem, ReasoningChain
from tests.soak.fuzz.mutate import mutated_text
from tests.soak.fuzz.target import Target

PIECES = (
    "\\boxed{",
    "}",
    "\\boxed{B}",
    "\\text{",
    "\\mathrm{",
    "$",
    "\\frac{1}{2}",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "The answer is",
    "the answer: ",
    "Answer:",
    "ANSWER: (A)",
    "(A)",
    "(B)",
    "[C]",
    "A",
    "B.",
    "**",
    "*",
    "\n",
    "\n\n",
    " ",
    ", ",
    ". ",
    "not ",
    "either ",
    "or ",
    "left",
    "right",
    "Option",
    "option B",
    "Action Plan:",
    "Action plan: ",
    "plan: ",
    "R, D",
    "RIGHT",
    "down",
    "U",
    "->",
    "\u2192",
    "\u4e0b\u53f3",
    "\uff22",
    "\u24b7",
    "1,000",
    "$641.8",
    "17.5%",
    "yes",
    "No",
    "true",
    "1.",
    "\u0661\u0662",
    "\u00b2",
    "October 24",
    "|",
    "<latents:4>",
    "</s>",
    "<|im_end|>",
    "```",
    "{",
    "\\",
    "\\\\",
    '"',
    "'",
    "\u2019",
    "conflict: yes",
    "ambiguous: no",
    "<imagined>",
    "</imagined>",
    "<before>",
    "</before>",
    "<after>",
    "</after>",
    "e\u0301",
    "\u202e",
    "\ud800",
    "\x00",
    "(",
    ")",
    "[",
)
SEEDS = (
    "\\boxed{B}",
    "The answer is (B).",
    "<think>First I see A, not B.</think>\n\\boxed{A}",
    "B",
    "R, D, D",
    "",
    "Action Plan: R,D,D,R",
    "**Answer:** right",
    "It is 1,470 (17.5%).",
    "conflict: no\nambiguous: no",
    "so (A) or (B)?",
    "<imagined>a map</imagined>",
    "<answer>a cup</answer>",
    "\\boxed{\\text{Down, Right}}",
    "Joe Straus | Lyle Larson",
)
MAZE = [[1, 0, 0], [0, -1, 0], [0, 0, 2]]
FACTS: dict[str, Any] = {"map": MAZE, "plan": "RD", "scene": "Which way?", "answers": ["2"], "kind": "hole", "task": 1}
GROUPS = ("own", "level-3", "vwtq", "vtabfact", "fintabnetqa", "vwtq_syn", "static", "hole", "single")


def _problems(benchmark: Benchmark) -> list[Problem]:
    """A problem of every group, with options and, where the scorer takes words, without."""
    common = {"id": "p-0", "benchmark": benchmark.name, "split": "test", "question": "<image>\nWhich?", "images": ()}
    options = ["left", "right", "3", "the left one"]
    made = []
    for group in benchmark.groups:
        made.append(Problem(**common, group=group, answer="B", facts={**FACTS, "options": options}))  # type: ignore[arg-type]
        made.append(Problem(**common, group=group, answer="1,470", facts=FACTS))  # type: ignore[arg-type]
    return [problem for problem in made if _scores(benchmark, problem)]


def _scores(benchmark: Benchmark, problem: Problem) -> bool:
    """Whether the benchmark has problems of this form."""
    try:
        for rule in benchmark.rules:
            benchmark.score(problem, "B", rule=rule)
    except (KeyError, ValueError, IndexError):
        return False
    return True


def drawn_answer(chance: Random) -> str:
    """An answer: mostly short, now and then of many pieces."""
    if chance.random() < 0.01:
        return "".join(chance.choices(PIECES, k=400))
    return mutated_text(chance.choice(SEEDS), PIECES, chance)


def _answers(benchmark: Benchmark) -> Target:
    def prepare(_: Path) -> tuple[Callable[[Random], Any], Callable[[Any], object]]:
        problems = _problems(benchmark)
        assert problems, benchmark.name

        def draw(chance: Random) -> tuple[Problem, str, str]:
            return chance.choice(problems), chance.choice(benchmark.rules), drawn_answer(chance)

        def read(case: tuple[Problem, str, str]) -> object:
            problem, rule, output = case
            score = benchmark.score(problem, output, rule=rule)
            assert isinstance(score.correct, bool) and isinstance(score.parsed, str | None), score
            return score

        return draw, read

    return Target(f"answers to {benchmark.name}", prepare)


def _teacher(_: Path) -> tuple[Callable[[Random], str], Callable[[str], object]]:
    facts = {"options": ["left", "right"]}
    problem = Problem(
        id="p", benchmark="own", split="train", group="own", question="<image>", images=(), answer="B", facts=facts
    )
    settings = TeacherSettings(kind="endpoint", variant="cot", model="m")
    chain = ReasoningChain(
        problem_id="p", variant="cot", text_before="<think>a</think>", text_after="\\boxed{B}", teacher="t"
    )

    def read(text: str) -> object:
        fields = {"request": "0" * 64, "problem": "p", "template": "t", "attempt": 1, "model": "m", "served": "m"}
        answer = Answer.model_construct(**fields, text=text, finish="stop")  # type: ignore[arg-type]
        return read_chain(answer, problem, settings, "cot", "m"), read_polished(answer, chain), read_verdict(answer)

    return drawn_answer, read


ANSWER_TARGETS = (
    *(_answers(benchmarks.get(name)) for name in benchmarks.NAMES),
    Target("answers of a teacher", _teacher),
)
