"""``mirage answer``: one question about one image; the answer, with a mark for every latent span."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from flows.commands.printing import console, print_line
from flows.trained import find_checkpoint, use_task
from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import InferenceSettings, Settings
from mirage_core.errors import DataError, InputError
from mirage_core.image_files import remarks
from mirage_core.reports.trajectories import pieces
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, shortest_path
from tasks.paths import open_store

_LETTERS = {word: letter for letter, word in vsp_reasoning.WORDS.items()}
TRAINABLE = ("vsp_planning", "vsp_reasoning", "mental_rotation", "paper_folding", "jigsaw", "sat", "comt", "own")
"""The benchmarks that models are trained on, by their keys in ``problems``."""


def answer(
    image: Path,
    question: str | None,
    benchmark_name: str | None,
    reference: str | None,
    store: str | None,
    *,
    page: Path | None = None,
    open_page: bool = False,
) -> None:
    """Ask, and print the prompt, the answer, and the verdict where the image shows a map that can be read.

    The default benchmark is the first one that the model was trained on. ``page``: write an explanation there.
    """
    for remark in remarks(read_image(image)[0], str(image)):  # a bad image is an error before the model is loaded
        print_line(f"{image}: {remark}", "yellow")
    benchmark = benchmark_name or default_benchmark(find_checkpoint(reference, None, open_store(store)).settings)
    use_task(benchmark, reference, open_store(store))
    problem = image_problem(image, question, benchmark)
    checkpoint = find_checkpoint(reference, None, open_store(store))

    from mirage_core.analysis.imagined.reading import ImaginationReader
    from mirage_core.distributed.collectives import process_device
    from mirage_core.generation.generator import Generator
    from mirage_core.methods import get_method
    from mirage_core.model.loading import load_model
    from mirage_core.reports.diagnosis.question_page import film_lines

    model = checkpoint.settings.model
    loaded = load_model(checkpoint.folder, dtype=model.dtype, attention=model.attention, device=process_device())
    generator = Generator.for_evaluation(
        loaded, checkpoint.settings, method=checkpoint.method, latents=get_method(checkpoint.method).latents
    )
    inference = InferenceSettings.from_metadata(loaded.about, checkpoint.settings)
    prompt = benchmarks.get(benchmark).prompt(problem, inference.prompt.form, inference.variant)
    if inference.prompt.form == "short" and question is not None and benchmark == vsp_planning.NAME:
        print_line(f"{checkpoint.name} was asked its own short prompt, not your question", "yellow")
    print_line(f"model   {checkpoint.name} ({checkpoint.method})")
    print_line(f"asked   {prompt.strip()}")
    trajectory = generator.generate([problem])[0].trajectories[0]
    prediction = generator.prediction(problem, trajectory)
    console.print(Text("answer  ") + mark_latents(prediction.output))
    if not prediction.finished:
        print_line("        (truncated: the maximum number of tokens was reached)", "yellow")
    if "map" in problem.facts:
        verdict = generator.judge(problem, prediction)
        right = "right" if verdict.correct else "wrong" if verdict.parsed else "wrong: no answer could be parsed"
        print_line(f"verdict {right} (parsed: {verdict.parsed or 'nothing'}, rule {verdict.rule})")
    if trajectory.latents and page is None:  # an explanation prints it too
        reader = ImaginationReader.of(checkpoint.folder, loaded, checkpoint.settings)
        for line in () if reader is None else film_lines(reader.read([problem], [trajectory.latents[0]])[0]):
            print_line(line)
    if page is not None:
        from flows.commands.explain import explain

        judged = "map" in problem.facts
        explain(problem, prompt.strip(), checkpoint, open_store(store), page, judged=judged, open_page=open_page)


def parse_words(words: Sequence[str], reference: str | None) -> tuple[str | None, Path, str | None]:
    """Return the model, the image and the question of ``[MODEL] IMAGE [QUESTION]``; a folder in front is the model.

    InputError for too many words, a folder without an image, and two models.
    """
    rest = list(words)
    if len(rest) == 3 or Path(rest[0]).is_dir():
        if reference is not None:
            raise InputError(f"got two models, {rest[0]} and --checkpoint {reference}: give one of them")
        reference = rest.pop(0)
    if not 1 <= len(rest) <= 2:
        raise InputError(
            f"got {len(words)} words, expected a model folder (or none), an image and a question (or none): "
            "put the question in quotes"
        )
    return reference, Path(rest[0]), rest[1] if len(rest) == 2 else None


def default_benchmark(settings: Settings) -> str:
    """Return the first benchmark that a recipe trains on; planning where there is none."""
    task = benchmarks.use(settings.problems)
    if task is not None:
        return task.name
    trained = [name for name in TRAINABLE if getattr(settings.problems, name) is not None]
    return trained[0].replace("_", "-") if trained else vsp_planning.NAME


def mark_latents(output: str) -> Text:
    """Return the output with its latent spans, and the codes that it wrote, marked."""
    text = Text()
    for piece in pieces(output):
        if piece.num_latents:
            text.append(f"[{piece.num_latents} latents]", style="bold magenta")
        else:
            text.append(piece.text, style="bold cyan" if piece.codes else None)
    return text


def image_problem(image: Path, question: str | None, benchmark: str) -> Problem:
    """Return a problem about the user's image; its map is read where the image shows the benchmark's art."""
    benchmarks.get(benchmark)
    data, maze = read_image(image)
    text = question if question is None or "<image>" in question else f"<image>\n{question}"
    if benchmark == vsp_planning.NAME:
        return planning_problem(data, maze, text)
    if benchmark == vsp_reasoning.NAME:
        return reasoning_problem(data, maze, question)
    if text is None:
        raise InputError(f"{benchmark} has no default question: give one after the image")
    return unjudged_problem(benchmark, data, text)


def planning_problem(data: bytes, maze: Maze | None, question: str | None) -> Problem:
    """Return a planning problem; without a readable map it needs a question and is not judged."""
    if maze is not None:
        plan = shortest_path(maze)
        if plan is None:
            raise DataError("the map in the image has no path from its start to its goal: use another image")
        return vsp_planning.make_problem("answer", "test", maze, data, answer=plan, question=question)
    if question is None:
        raise InputError("the image shows no map of the benchmark's art: give a question after the image")
    return unjudged_problem(vsp_planning.NAME, data, question)


def unjudged_problem(benchmark: str, data: bytes, question: str) -> Problem:
    """Return a question whose answer is unknown."""
    return Problem(
        id="answer", benchmark=benchmark, split="test", group="own", question=question, images=(data,), answer=""
    )


def reasoning_problem(data: bytes, maze: Maze | None, question: str | None) -> Problem:
    """Return a reasoning problem; the question holds the plan, in words (RIGHT, UP) or letters (RU)."""
    plan = parse_plan(question or "")
    if not plan:
        raise InputError("vsp-reasoning asks about a plan: give it as the question, for example 'RIGHT, RIGHT, DOWN'")
    if maze is None:
        raise DataError("the image shows no map of the benchmark's art, which vsp-reasoning needs")
    answer = vsp_reasoning.answer_of(maze, plan)
    return vsp_reasoning.make_problem("answer", "test", maze, data, plan, answer)


def parse_plan(question: str) -> str:
    """Return the moves of a plan in a question: those after "Full Action Plan:", or the whole text."""
    text = question.partition("Full Action Plan:")[2].partition("\n")[0] or question
    words = re.findall(r"[A-Za-z]+", text.upper())
    if words and all(word in _LETTERS for word in words):
        return "".join(_LETTERS[word] for word in words)
    return words[0] if len(words) == 1 and set(words[0]) <= set("UDLR") else ""


def read_image(image: Path) -> tuple[bytes, Maze | None]:
    """Return an image's bytes, decoded once as a check, and the map it shows; DataError names a bad file."""
    from mirage_core.reports.drawings import open_image
    from mirage_core.worlds.maze.reading import read_maze

    try:
        data = image.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image {image}: {error.strerror}") from error
    pixels = open_image(data, str(image))
    try:
        return data, read_maze(pixels)
    except DataError:
        return data, None
