"""A judge model for answers on which the authors' rules do not decide: BLINK and HR-Bench officially ask one.

Off by default. Requests go through the client of hosted models: answers are cached, tokens and cost are counted. The
instruction is our own wording of the authors' (which option is the answer closest to, Z for none).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mirage_core import benchmarks
from mirage_core.benchmarks.judge import judged_again
from mirage_core.benchmarks.multiple_choice import published_options
from mirage_core.benchmarks.official.letters import REFUSED
from mirage_core.config import TeacherRuntime, TeacherSettings
from mirage_core.errors import SettingsError
from mirage_core.llm_client.cached_client import AnswerSource
from mirage_core.llm_client.client import RefusedError
from mirage_core.llm_client.request import Request, make_request
from mirage_core.store import Store
from mirage_core.teacher.attempts import run
from mirage_core.teacher.teacher import source_factory
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent, Score, Scored

_MAX_TOKENS = 16
_INSTRUCTION = """\
Below are a question, its options and somebody's answer to it. Decide which option the answer chooses.
Reply with that option's letter alone. Reply with Z if the answer refuses, chooses no option, or means something else \
than every option.

Question: {question}
Options:
{options}
Answer: {answer}
Letter:"""


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """A judge model by its name at an endpoint, and how the endpoint is reached."""

    model: str
    runtime: TeacherRuntime

    def request(self, problem: Problem, prediction: Prediction) -> Request:
        """The request about one answer: text only, temperature 0."""
        lines = "\n".join(f"({letter}) {text}" for letter, text in published_options(problem).items())
        words = problem.question.replace("<image>", "").strip()
        content = _INSTRUCTION.format(question=words, options=lines, answer=prediction.output.strip())
        settings = TeacherSettings(
            kind="endpoint", variant="cot", model=self.model, temperature=0.0, max_tokens=_MAX_TOKENS
        )
        return make_request(settings, ({"role": "user", "content": content},))


@dataclass(frozen=True, slots=True)
class Judged:
    """The scores under the official rule with the judge, and what the judge was asked and cost."""

    scored: list[Scored]
    account: dict[str, Any]


def judge_by_model(
    scored: Sequence[Scored], problems: Sequence[Problem], judge: JudgeModel, store: Store, progress: Progress
) -> Judged:
    """Score predictions by their benchmark's official rule, and by the judge model where that leaves them undecided.

    The rule of every score names the judge. SettingsError for a benchmark whose authors ask no judge; EndpointError as
    in ``evaluate_endpoint``.
    """
    by_id = {problem.id: problem for problem in problems}
    for name in dict.fromkeys(prediction.benchmark for prediction, _ in scored):
        if benchmarks.get(name).undecided is None:
            raise SettingsError(f"the authors of {name} ask no judge model: leave --judge out")
    official = judged_again(scored, problems, benchmarks.OFFICIAL)
    open_ones = [at for at, (prediction, _) in enumerate(official) if _is_open(by_id, prediction)]
    settings = TeacherSettings(kind="endpoint", variant="cot", model=judge.model)

    def log(message: str) -> None:
        progress(ProgressEvent(stage="evaluation", message=message))

    source = source_factory(settings, judge.runtime, store)(log)
    asked = [(by_id[official[at][0].problem_id], official[at][0]) for at in open_ones]
    letters = dict(zip(open_ones, run(_letters(judge, asked, source)), strict=True)) if asked else {}
    result = [
        (prediction, _with_judge(score, by_id[prediction.problem_id], judge.model, letters.get(at)))
        for at, (prediction, score) in enumerate(official)
    ]
    decided = sum(letter is not None for letter in letters.values())
    usage = {**source.usage.deterministic(), **source.usage.this_run(judge.runtime)}
    return Judged(result, {"model": judge.model, "asked": len(open_ones), "decided": decided, "account": usage})


def _is_open(by_id: dict[str, Problem], prediction: Prediction) -> bool:
    undecided = benchmarks.get(prediction.benchmark).undecided
    return undecided is not None and undecided(by_id[prediction.problem_id], prediction.output)


def _with_judge(score: Score, problem: Problem, model: str, letter: str | None) -> Score:
    rule = f"{score.rule}+{model}"
    if letter is None:
        return replace(score, rule=rule)
    return replace(score, rule=rule, parsed=letter, correct=letter == problem.answer)


async def _letters(
    judge: JudgeModel, asked: Sequence[tuple[Problem, Prediction]], source: AnswerSource
) -> list[str | None]:
    """The judge's letter for each answer, in order; None for Z, a refused request and an unreadable reply."""
    limit = asyncio.Semaphore(judge.runtime.concurrency)

    async def ask(problem: Problem, prediction: Prediction) -> str | None:
        async with limit:
            try:
                reply = await source.answer(judge.request(problem, prediction), problem.id, "judge", 1)
            except RefusedError:
                return None
        return _letter_of(reply.text, published_options(problem))

    async with source, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(problem, prediction)) for problem, prediction in asked]
    return [task.result() for task in tasks]


def _letter_of(reply: str, options: dict[str, str]) -> str | None:
    """The only option's letter among the words of a reply; None if it says Z, several letters, or none."""
    words = set(re.findall(r"[A-Z]+", reply))
    named = [letter for letter in (*options, REFUSED) if letter in words]
    return named[0] if len(named) == 1 and named[0] != REFUSED else None
