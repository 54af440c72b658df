"""``mirage answer``: one picture and one question; the text, with a mark where the model thought in latents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from flows.commands.printing import console
from flows.trained import checkpoint, use_task
from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, shortest_path
from tasks.paths import open_store

_LETTERS = {word: letter for letter, word in vsp_reasoning.WORDS.items()}
# The benchmarks that models are trained on, by their names in problems.*
TRAINABLE = ("vsp_planning", "vsp_reasoning", "jigsaw", "sat", "comt", "own")
_LATENTS = re.compile(r"<latents:(\d+)>")


def answer(
    image: Path,
    question: str | None,
    named: str | None,
    reference: str | None,
    store: str | None,
    *,
    page: Path | None = None,
    open_page: bool = False,
) -> None:
    """Ask, and print what was asked, what came, and the verdict where the picture shows a map we can read.

    Without a benchmark's name it is the first one that the model was trained on. ``page``: explain the answer there.
    """
    picture_of(image)  # a picture that is none is said before a model is looked for
    benchmark = named or own_benchmark(checkpoint(reference, None, open_store(store)).settings)
    use_task(benchmark, reference, open_store(store))
    problem = problem_of(image, question, benchmark)
    chosen = checkpoint(reference, None, open_store(store))

    from mirage_core.distributed.collectives import process_device
    from mirage_core.generation.generator import Answerer, judge, use_of
    from mirage_core.model.loading import load_model
    from mirage_core.pipeline.stages.evaluate import latents_of

    wanted, device = chosen.settings.model, process_device(0, 1)
    loaded = load_model(chosen.folder, dtype=wanted.dtype, attention=wanted.attention, device=device)
    answerer = Answerer(loaded, chosen.settings, method=chosen.method, latents=latents_of(chosen.method))
    use = use_of(loaded, chosen.settings)
    asked = benchmarks.get(benchmark).prompt(problem, use.prompt.form, use.variant)
    if use.prompt.form == "short" and question is not None and benchmark == vsp_planning.NAME:
        console.print(f"{chosen.name} was asked its own short prompt, not your question", style="yellow")
    console.print(f"model   {chosen.name} ({chosen.method})", markup=False)
    console.print(f"asked   {asked.strip()}", markup=False)
    prediction = answerer.answer(problem).prediction
    console.print(Text("answer  ") + marked(prediction.output))
    if not prediction.finished:
        console.print("        (cut: the longest answer allowed was reached)", style="yellow")
    if "map" in problem.facts:
        verdict = judge(problem, prediction, chosen.settings.evaluation.planning_rule)
        right = "right" if verdict.correct else "wrong" if verdict.parsed else "wrong: no answer could be read"
        console.print(f"verdict {right} (read: {verdict.parsed or 'nothing'}, rule {verdict.rule})", markup=False)
    if page is not None:
        from flows.commands.explain import explain

        judged = "map" in problem.facts
        explain(problem, asked.strip(), chosen, open_store(store), page, judged=judged, open_page=open_page)


def asked_what(words: Sequence[str], reference: str | None) -> tuple[str | None, Path, str | None]:
    """The model, the picture and the question out of ``[MODEL] IMAGE [QUESTION]``: a folder in front is the model.

    InputError for more words than that, a folder without a picture after it, and two models.
    """
    rest = list(words)
    if len(rest) == 3 or Path(rest[0]).is_dir():
        if reference is not None:
            raise InputError(f"got two models, {rest[0]} and --checkpoint {reference}: give one of them")
        reference = rest.pop(0)
    if not 1 <= len(rest) <= 2:
        raise InputError(
            f"got {len(words)} words, expected a model folder (or none), a picture and a question (or none): "
            "put the question into quotes"
        )
    return reference, Path(rest[0]), rest[1] if len(rest) == 2 else None


def own_benchmark(settings: Settings) -> str:
    """The first benchmark of a recipe that can be asked about any picture; planning where there is none."""
    task = benchmarks.use(settings.problems)
    if task is not None:
        return task.name
    kept = [name for name in TRAINABLE if getattr(settings.problems, name) is not None]
    return kept[0].replace("_", "-") if kept else vsp_planning.NAME


def marked(output: str) -> Text:
    """The output with its latent spans made visible."""
    text = Text()
    end = 0
    for span in _LATENTS.finditer(output):
        text.append(output[end : span.start()])
        text.append(f"[{span.group(1)} latents]", style="bold magenta")
        end = span.end()
    return text.append(output[end:])


def problem_of(image: Path, question: str | None, benchmark: str) -> Problem:
    """A problem about a picture of one's own; its map is read from the picture where that shows the benchmark's art."""
    benchmarks.get(benchmark)
    data, maze = picture_of(image)
    asked = question if question is None or "<image>" in question else f"<image>\n{question}"
    if benchmark == vsp_planning.NAME:
        return planning_problem(data, maze, asked)
    if benchmark == vsp_reasoning.NAME:
        return reasoning_problem(data, maze, question)
    if asked is None:
        raise InputError(f"{benchmark} has no question of its own for a picture: give one after the picture")
    return bare_problem(benchmark, data, asked)


def planning_problem(data: bytes, maze: Maze | None, question: str | None) -> Problem:
    """A planning problem; without a readable map nothing can be judged, and a question has to be given."""
    if maze is not None:
        plan = shortest_path(maze)
        if plan is None:
            raise DataError("the map in the picture has no way from its start to its goal: take another")
        return vsp_planning.make_problem("answer", "test", maze, data, answer=plan, question=question)
    if question is None:
        raise InputError("the picture shows no map of the benchmark's art: give a question after the picture")
    return bare_problem(vsp_planning.NAME, data, question)


def bare_problem(benchmark: str, data: bytes, question: str) -> Problem:
    """A question about a picture whose answer nobody knows."""
    return Problem(
        id="answer", benchmark=benchmark, split="test", group="own", question=question, images=(data,), answer=""
    )


def reasoning_problem(data: bytes, maze: Maze | None, question: str | None) -> Problem:
    """A reasoning problem: the question holds the plan, in words (RIGHT, UP) or letters (RU)."""
    plan = plan_in(question or "")
    if not plan:
        raise InputError("vsp-reasoning asks about a plan: give it as the question, for example 'RIGHT, RIGHT, DOWN'")
    if maze is None:
        raise DataError("the picture shows no map of the benchmark's art, which vsp-reasoning needs")
    answer = vsp_reasoning.answer_of(maze, plan)
    return vsp_reasoning.make_problem("answer", "test", maze, data, plan, answer)


def plan_in(question: str) -> str:
    """The moves of a plan in a question: after "Full Action Plan:" where it says so, else all it holds."""
    text = question.partition("Full Action Plan:")[2].partition("\n")[0] or question
    words = re.findall(r"[A-Za-z]+", text.upper())
    if words and all(word in _LETTERS for word in words):
        return "".join(_LETTERS[word] for word in words)
    return words[0] if len(words) == 1 and set(words[0]) <= set("UDLR") else ""


def picture_of(image: Path) -> tuple[bytes, Maze | None]:
    """A picture's bytes, decoded once to see that it is one, and the map it shows; DataError names a bad file."""
    from mirage_core.reports.drawings import open_picture
    from mirage_core.worlds.maze.reading import read_maze

    try:
        data = image.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the picture {image}: {error.strerror}") from error
    picture = open_picture(data, str(image))
    try:
        return data, read_maze(picture)
    except DataError:
        return data, None
