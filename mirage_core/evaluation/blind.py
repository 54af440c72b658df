"""What accuracy needs no picture: a rule fitted on text alone, to be shown beside every accuracy.

The rule answers with the most frequent answer of the training problems that look alike in words, under the description
that tells most. Chance says how often a blind guess is right; this
says how often a blind reader is, as the majority and question-type baselines of Goyal et al., arXiv 1612.00837, do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from mirage_core.benchmarks import vsp_reasoning
from mirage_core.benchmarks.judge import judge
from mirage_core.benchmarks.multiple_choice import options_of
from mirage_core.evaluation.metrics import AccuracyRow, accuracy_rows
from mirage_core.evaluation.pictures import picture_units
from mirage_core.evaluation.statistics import wilson
from mirage_core.types import Prediction, Problem, Scored
from mirage_core.worlds.maze import shape_of

TEXT_RULE = "blind-text-rule"
"""The method's name of the rule in tables."""
BLIND_SUFFIX = "-blind"
"""Follows a method's name where it answered without the picture."""
_FOLDS = 5
_BUCKET = 8  # words of a question that count as one length

Description = tuple[object, ...]


def text_rule(train: Sequence[Problem], test: Sequence[Problem], planning_rule: str) -> list[Scored]:
    """Answer the test problems by the rule, benchmark by benchmark, and judge the answers as those of any method.

    A benchmark without training problems is answered in five parts, each by what the other parts teach; problems of one
    question (in several orders) or picture are in one part.
    """
    answered: list[Scored] = []
    for benchmark in sorted({problem.benchmark for problem in test}):
        asked = [problem for problem in test if problem.benchmark == benchmark]
        taught = [problem for problem in train if problem.benchmark == benchmark and problem.split == "train"]
        answers = dict(_answers(taught, asked))
        predictions = [(problem, _prediction(problem, answers[problem.id])) for problem in asked]
        answered += [(prediction, judge(problem, prediction, planning_rule)) for problem, prediction in predictions]
    return answered


def text_rule_rows(train: Sequence[Problem], test: Sequence[Problem], planning_rule: str) -> list[AccuracyRow]:
    """Return the score table's lines of the rule."""
    return accuracy_rows(text_rule(train, test, planning_rule))


def _answers(taught: Sequence[Problem], asked: Sequence[Problem]) -> Iterator[tuple[str, str]]:
    """Yield the id of every problem and its answer."""
    if taught:
        rule = _Rule(taught)
        yield from ((problem.id, rule.answer(problem)) for problem in asked)
        return
    part = _parts(asked)
    for number in range(_FOLDS):
        rule = _Rule([problem for problem in asked if part[problem.id] != number])
        yield from ((problem.id, rule.answer(problem)) for problem in asked if part[problem.id] == number)


def _parts(problems: Sequence[Problem]) -> dict[str, int]:
    """The part of each problem: those of one picture, or one question in several orders, share one; in order."""
    units = picture_units(problems).tolist()
    return {problem.id: unit % _FOLDS for problem, unit in zip(problems, units, strict=True)}


class _Rule:
    """The most frequent answer for every description of the training problems."""

    def __init__(self, taught: Iterable[Problem]) -> None:
        self._seen: dict[Description, Counter[str]] = defaultdict(Counter)
        for problem in taught:
            for description in descriptions(problem):
                self._seen[description][_worded(problem, description, problem.answer)] += 1

    def answer(self, problem: Problem) -> str:
        """The most frequent answer of the description that tells most; empty if nothing was taught.

        That is the one whose answer's share has the highest lower bound (Wilson), so that few problems tell little.
        """
        best, answer = -1.0, ""
        for description in descriptions(problem):
            seen = self._seen.get(description)
            if not seen:
                continue
            common = min(seen, key=lambda each: (-seen[each], each))
            low = wilson(seen[common], seen.total())[0]
            if low > best:
                best, answer = low, _lettered(problem, description, common)
        return answer


def _options(problem: Problem) -> dict[str, str]:
    return dict(options_of(problem)) if "options" in problem.facts else {}


def _worded(problem: Problem, description: Description, answer: str) -> str:
    """An answer as a description counts it: of a choice between known texts the text, wherever it stands."""
    return _options(problem).get(answer, answer) if description[:1] == ("options",) else answer


def _lettered(problem: Problem, description: Description, answer: str) -> str:
    """The letter that an answer has in this problem."""
    if description[:1] != ("options",):
        return answer
    return next((letter for letter, text in _options(problem).items() if text == answer), answer)


def descriptions(problem: Problem) -> list[Description]:
    """What the words of a problem tell, from the most specific description to none at all.

    Of a plan its length, revisits and whether it ends where it has been; of a question its own text, its first words,
    its length and the options.
    """
    group = problem.group
    if problem.benchmark == vsp_reasoning.NAME and "plan" in problem.facts:
        shape = shape_of(problem.facts["plan"])
        known = (shape.length, min(shape.revisits, 3), shape.ends_in_visited)
        return [("plan", group, *known), ("plan", *known), ("plan", shape.ends_in_visited), ("group", group), ()]
    words = problem.question.replace("<image>", " ").split()
    texts = tuple(sorted(_options(problem).values()))
    choices: list[Description] = [("options", group, tuple(words[:3]), texts), ("options", texts)] if texts else []
    return [
        ("question", " ".join(words), texts),
        *choices,
        *(("begin", group, tuple(words[:count])) for count in (6, 3, 1)),
        ("length", group, len(words) // _BUCKET),
        ("group", group),
        (),
    ]


def _prediction(problem: Problem, answer: str) -> Prediction:
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method=TEXT_RULE,
        output=f"\\boxed{{{answer}}}",
        token_ids=(),
        spans=(),
        finished=True,
    )
