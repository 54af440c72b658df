"""The imagined film: read off latents by their heads, compared with the truth, with the answers, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep, Kind, first_wrong, up_to_end
from mirage_core.analysis.imagined.truth import true_film
from mirage_core.analysis.intervened_generation import InterventionRunner
from mirage_core.analysis.measures.film import NO_HEADS, film
from mirage_core.analysis.results import FilmResult
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import AnalysisSettings, StepwiseSettings
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import Encoder
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.forward.forward import relaxation_forward
from mirage_core.model.loading import build_base_model, load_model, save_model
from mirage_core.model.weights import SavedModule, no_gather
from mirage_core.reports.diagnosis.film_view import film_verdict
from mirage_core.reports.drawings import RIGHT_COLOUR, WRONG_COLOUR
from mirage_core.reports.film_strip import film_gif, imagined_frame, step_words, strip_frames
from mirage_core.store.records import load_examples
from mirage_core.training.stepwise.batch import step_batch
from mirage_core.training.stepwise.heads import head_metadata
from mirage_core.training.stepwise.setup import FilmData, Stepwise, make_stepwise
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, picture_bytes, render
from tests.analysis import fake_runs
from tests.training.small_world import make_inputs, quiet, small_settings

SETTINGS = small_settings(auxiliary_images={"film": "forward"}, latent={"num_latents": 3})
MAZE = Maze(((1, 0, -1), (0, 0, 0), (-1, 0, 2)))
HEADS: dict[str, dict[str, Any]] = {
    "labels": {"where": "cell", "what": "kind"},
    "visual": {"where": "pointer", "what": "codebook", "codebook_size": 4},
    "contrastive": {"where": "pointer", "what": "contrastive", "codebook_size": 4},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def random_heads(inputs: Path, work: Path, heads: dict[str, Any]) -> Stepwise:
    """Heads of random weights, saved beside the model of ``inputs`` in ``work``."""
    settings = small_settings(auxiliary_images={"film": "forward"}, latent={"num_latents": 3}, film={"stepwise": heads})
    model = load_model(inputs / "model")
    examples = load_examples(inputs / "examples", split="train", frames=True)
    data = FilmData(examples, "train", range(len(examples)), inputs / "examples", work / "scratch")
    stepwise = make_stepwise(settings.film.stepwise, settings, model, data, 7)
    for parameter in stepwise.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    save_model(work / "model", model.backbone, model.processor, {"stages": ["base", "film"]})
    module = SavedModule(stepwise.heads, HEADS_FILE, head_metadata(stepwise.heads.settings, stepwise.names))
    module.save(work / "model", no_gather, write=True)
    return stepwise


@pytest.mark.parametrize("trial", list(HEADS))
def test_what_is_read_is_what_training_scores(inputs: Path, tmp_path: Path, trial: str) -> None:
    """Right and wrong steps of examples' own latents are those of the training loss, computed on the whole batch."""
    stepwise = random_heads(inputs, tmp_path, HEADS[trial])
    loaded = load_model(tmp_path / "model")
    examples = load_examples(inputs / "examples", split="train")
    encoder = Encoder(loaded.processor, SETTINGS.latent, SETTINGS.prompt, "direct")
    batch = collate(
        [encoder.example(each, with_latents=True) for each in examples], loaded.ids, loaded.backbone.position_ids
    )
    with torch.no_grad():
        hidden = relaxation_forward(loaded.backbone, batch).hidden
        targets = [stepwise.targets.get(at) for at in range(len(examples))]
        steps = step_batch(batch, targets, stepwise.image_pad, stepwise.heads.widths)
        scores = stepwise.heads(hidden, steps)
    reader = ImaginationReader.of(tmp_path / "model", loaded, SETTINGS)
    assert reader is not None
    latents = hidden[steps.rows, steps.columns].view(len(examples), 3, -1)
    films = [step for own in reader.read([each.problem for each in examples], list(latents)) for step in own]
    places = [step.place_right for step in films]
    classes, wanted = scores["where"]
    assert places == (wanted.gather(1, classes.argmax(-1, keepdim=True))[:, 0] > 0).tolist()
    assert len(set(places)) == 2  # random heads are right now and then
    if trial == "labels":
        names = stepwise.names["kinds"]
        assert [f'"{step.kinds[0].name}"' for step in films] == [
            names[at] for at in scores["what"][0].argmax(-1).tolist()
        ]
    if trial == "visual":
        assert [step.kinds[0].name for step in films] == [
            f"appearance {at + 1}" for at in scores["what"][0].argmax(-1).tolist()
        ]
        assert {step.true_kind for step in films} == {
            f"appearance {at + 1}" for at in scores["what"][1].argmax(-1).tolist()
        }


def test_a_model_without_heads_or_with_blank_latents_has_no_film(inputs: Path, tmp_path: Path) -> None:
    loaded = load_model(inputs / "model")
    assert ImaginationReader.of(inputs / "model", loaded, SETTINGS) is None
    random_heads(inputs, tmp_path, HEADS["labels"])
    blank = small_settings(auxiliary_images={"film": "forward"}, latent={"num_latents": 3, "input": "blank"})
    assert ImaginationReader.of(tmp_path / "model", loaded, SETTINGS) is not None
    assert ImaginationReader.of(tmp_path / "model", replace(loaded, about={}), blank) is None


def problem(benchmark: str = vsp_reasoning.NAME, plan: str = "RD", answer: str = "C") -> Problem:
    image = picture_bytes(render(MAZE, 28))
    if benchmark == vsp_planning.NAME:
        return vsp_planning.make_problem("p", "test", MAZE, image, answer=answer)
    return vsp_reasoning.make_problem("p", "test", MAZE, image, plan, answer)


def steps(cells: Sequence[tuple[int, int]], kinds: Sequence[str] = (), true: Sequence[Any] = ()) -> tuple[Any, ...]:
    """A film that is sure of its cells and kinds; ``true``: (cell, kind) of each step."""
    film = []
    for index, cell in enumerate(cells):
        grid = tuple(tuple(float((row, column) == cell) for column in range(3)) for row in range(3))
        truth = {"true_places": (true[index][0],), "true_kind": true[index][1], "frame": index} if true else {}
        named = (Kind(name=kinds[index], probability=0.9),) if kinds else ()
        film.append(ImaginedStep(index=index, places=grid, place=cell, kinds=named, **truth))
    return tuple(film)


@pytest.mark.parametrize(
    ("cells", "kinds", "wanted"),
    [
        ([(0, 1), (1, 1)], ["ice", "ice"], "C"),
        ([(0, 1), (1, 1)], ["ice", "hole"], "B"),  # what is imagined counts, not the map
        ([(0, 1), (1, 1)], ["goal", "hole"], "A"),  # the first of them ends it
        ([(0, 1), (0, 2)], [], "B"),  # without kinds: what the map has there
        ([(0, 1), (0, 1), (2, 0)], [], "B"),  # two latents a frame
        ([(7, 7), (1, 1)], [], None),  # no place of this map
        ([(0, 1), (1, 1)], ["appearance 1", "appearance 2"], "C"),
    ],
)
def test_a_film_of_moves_says_an_outcome(cells: Any, kinds: Any, wanted: str | None) -> None:
    assert implied_answer(problem(plan="RD"), steps(cells, kinds), "forward") == wanted


@pytest.mark.parametrize(
    ("cells", "order", "wanted"),
    [
        ([(1, 0), (1, 1), (1, 2), (2, 2), (2, 2)], "forward", "DRRD"),
        ([(1, 0), (1, 0), (1, 1), (1, 2), (1, 2), (2, 2)], "forward", "DRRD"),  # several latents a frame
        ([(1, 0), (1, 2), (2, 2)], "forward", None),  # a jump
        ([(1, 0), (1, 1)], "forward", None),  # the goal is not reached
        ([(1, 2), (1, 1), (1, 0), (0, 0), (0, 0)], "backward", "DRRD"),
        ([(1, 2), (1, 1)], "backward", None),
    ],
)
def test_a_film_of_arrows_says_a_plan(cells: Any, order: str, wanted: str | None) -> None:
    assert implied_answer(problem(vsp_planning.NAME, answer="DRRD"), steps(cells), order) == wanted


RINGS = [{(2, 2)}, {(1, 2), (2, 1)}, {(1, 1)}, {(0, 1), (1, 0)}, {(0, 0)}, {(0, 0)}]
"""The cells of MAZE by their moves to the goal; the last frame is held."""


@pytest.mark.parametrize(
    ("rings", "wanted"),
    [
        (RINGS, "DRDR"),  # of two cells as near to the goal the first, in the order U, D, L, R
        ([RINGS[0], {(1, 2)}, *RINGS[2:]], "DRRD"),
        (RINGS[:4], "DRDR"),  # the wave ends beside the start
        (RINGS[:3], None),  # and here two moves before it
        ([RINGS[0], {(0, 1)}, *RINGS[2:]], None),  # a cell of the second frame is not beside the goal
        ([{(0, 0)}, *RINGS[1:]], None),  # the start, as if it were the goal
        ([{(1, 1)}, *RINGS[1:]], None),  # the first frame is not the goal
    ],
)
def test_a_wave_of_distances_says_the_plan_down_from_the_start(rings: Any, wanted: str | None) -> None:
    assert implied_answer(problem(vsp_planning.NAME, answer="DRRD"), rings_imagined(rings), "wave") == wanted


def rings_imagined(rings: Any) -> list[ImaginedStep]:
    film = []
    for index, cells in enumerate(rings):
        grid = tuple(tuple(0.9 / len(cells) if (r, c) in cells else 0.01 for c in range(3)) for r in range(3))
        film.append(ImaginedStep(index=index, places=grid, place=min(cells)))
    return film


@pytest.mark.parametrize(
    ("rings", "wanted"),
    [
        ([*RINGS[:5], {(1, 0)}, {(1, 1)}, {(1, 2)}, {(2, 2)}, {(2, 2)}], "DRRD"),
        ([*RINGS[:5], {(0, 1)}, {(1, 1)}, {(1, 2)}, {(2, 2)}], "RDRD"),
        ([*RINGS[:5], {(1, 1)}, {(1, 2)}, {(2, 2)}], None),  # a jump
        (RINGS[:5], None),  # no path
        (RINGS[:4], None),  # the start is not reached
    ],
)
def test_a_search_says_the_path_after_the_start_is_reached(rings: Any, wanted: str | None) -> None:
    assert implied_answer(problem(vsp_planning.NAME, answer="DRRD"), rings_imagined(rings), "search") == wanted


def test_a_search_without_probabilities_of_places_says_nothing() -> None:
    film = [step.model_copy(update={"places": ()}) for step in rings_imagined([*RINGS[:5], {(1, 0)}])]
    assert implied_answer(problem(vsp_planning.NAME, answer="DRRD"), film, "search") is None


def test_the_truth_of_a_wave_has_all_places_of_a_frame_and_the_kind_of_most_of_them() -> None:
    reader = SimpleNamespace(settings=StepwiseSettings(where="cell", what="kind"))
    settings = small_settings(auxiliary_images={"film": "wave"})
    asked = problem(vsp_planning.NAME, answer="DRRD")
    truth = true_film(asked, settings, reader, None)  # type: ignore[arg-type]
    assert [set(places) for places in truth.places] == RINGS[:5]
    assert truth.kinds == ("goal", "ice", "ice", "ice", "start")


def test_without_a_map_a_film_says_nothing() -> None:
    bare = replace(problem(), facts={})
    assert implied_answer(bare, steps([(0, 1)], ["ice"]), "forward") is None


def test_the_first_wrong_step_counts_and_those_after_the_end_of_the_film_do_not() -> None:
    truth = [((0, 1), "ice"), ((1, 1), "ice"), ((1, 1), "ice")]
    film = steps([(0, 1), (1, 1), (2, 2)], ["ice", "ice", "ice"], truth)
    ended = (*film[:2], film[2].model_copy(update={"after_end": True, "kinds": (Kind(name="hole", probability=1.0),)}))
    assert first_wrong(film) == 2 and first_wrong(ended) is None and len(up_to_end(ended)) == 2
    assert implied_answer(problem(plan="RD"), ended, "forward") == "C"  # nor for what the film says
    assert first_wrong(steps([(0, 1)], ["hole"], truth)) == 0  # the right place, the wrong kind


class FilmReader:
    """A reader that was told what to read."""

    def __init__(self, films: Sequence[Any]) -> None:
        self.films = films

    def read(self, problems: Sequence[Problem], latents: Sequence[Any]) -> list[Any]:
        return list(self.films[: len(problems)])


def measured(monkeypatch: pytest.MonkeyPatch, films: Sequence[Any], answers: Sequence[str]) -> FilmResult:
    """The measure over problems whose right answer is C, with these films and answers."""
    loaded = build_base_model(SETTINGS.model, 0)
    runner = InterventionRunner(loaded, SETTINGS, Path("model"))
    problems = [replace(problem(), id=f"p{at}", images=(f"{at}".encode(),)) for at in range(len(films))]
    problems = [replace(each, facts={**each.facts, "map": MAZE.rows()}) for each in problems]
    run = fake_runs.run(problems, torch.zeros(len(films), 2, 64))
    scored = tuple(fake_runs.answer(each, text) for each, text in zip(problems, answers, strict=True))
    reader = FilmReader(films)
    monkeypatch.setattr(ImaginationReader, "of", classmethod(lambda *_: reader))
    return film(runner, replace(run, scored=scored), problems, AnalysisSettings(resamples=50), quiet)


def test_the_measure_counts_where_films_leave_the_truth_and_who_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = [((0, 1), "ice"), ((1, 1), "ice")]
    right = steps([(0, 1), (1, 1)], ["ice", "ice"], truth)
    fell = steps([(0, 1), (2, 0)], ["ice", "hole"], truth)
    lost = steps([(1, 0), (1, 1)], ["ice", "ice"], truth)  # a wrong place that changes nothing
    result = measured(monkeypatch, [right, right, fell, fell, lost], ["C", "A", "B", "C", "C"])
    (films,) = result.benchmarks
    assert films.n == 5 and films.whole.value == pytest.approx(0.4)
    assert films.whole_right.value == pytest.approx(0.5) and films.left_right.value == pytest.approx(2 / 3)
    assert films.implied_right.value == pytest.approx(3 / 5)
    assert films.followed.value == pytest.approx(3 / 5)  # C, not A, B, not C, C
    assert films.misled.value == pytest.approx(0.5) and films.misled.n == 2
    first, second = films.steps
    assert (first.left, second.left) == (1, 2) and first.left_followed.value == 1.0
    assert first.place.value == pytest.approx(0.8) and first.kind.value == 1.0
    assert second.kind.value == pytest.approx(0.6) and second.left_right.value == pytest.approx(0.5)
    assert "at step 2 (2 of 5 films)" in film_verdict(films) and "goes with it in 50.0 %" in film_verdict(films)


def test_without_heads_the_measure_says_why_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = InterventionRunner(build_base_model(SETTINGS.model, 0), SETTINGS)
    problems = [problem()]
    result = film(runner, fake_runs.run(problems, torch.zeros(1, 2, 64)), problems, AnalysisSettings(), quiet)
    assert result.benchmarks == () and NO_HEADS in result.header.notes


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({}, [False, False, True, True]),
        ({"after_end": "free"}, [False, False, True, True]),
        ({"pace": "spread"}, [False] * 4),
        ({"frames": "last"}, [False] * 4),
    ],
)
def test_a_film_ends_where_its_latents_hold_the_last_frame_again_or_are_free(
    inputs: Path, tmp_path: Path, settings: dict[str, Any], ends: list[bool]
) -> None:
    random_heads(inputs, tmp_path, {**HEADS["labels"], **settings})
    loaded = load_model(tmp_path / "model")
    reader = ImaginationReader.of(tmp_path / "model", loaded, SETTINGS)
    assert reader is not None
    (film,) = reader.read([problem(plan="RD")], [torch.zeros(4, loaded.backbone.hidden_size)])
    assert [step.after_end for step in film] == ends
    assert [step.frame is None for step in film] == [end and "after_end" in settings for end in ends]


def test_a_place_that_a_small_map_does_not_have_is_wrong_and_said_so() -> None:
    (step,) = steps([(0, 1)], ["ice"], [((0, 1), "ice")])
    outside = step.model_copy(update={"place": (5, 0)})
    assert outside.right is False and step_words(outside).startswith("row 6, column 1 (not on the map)")
    assert imagined_frame(render(MAZE, 28), outside, 84).getpixel((28, 0)) == RIGHT_COLOUR


def test_a_frame_is_lit_where_the_latent_points_and_framed_by_its_verdict() -> None:
    image = render(MAZE, 28)
    truth = [((0, 1), "ice")]
    right = imagined_frame(image, steps([(0, 1)], ["ice"], truth)[0], 84)
    wrong = imagined_frame(image, steps([(2, 2)], ["goal"], truth)[0], 84)
    assert right.getpixel((28, 0)) == RIGHT_COLOUR and wrong.getpixel((56, 56)) == WRONG_COLOUR
    assert wrong.getpixel((28, 0)) == RIGHT_COLOUR  # where it truly is
    assert right.getpixel((42, 14)) != right.getpixel((42, 42))  # lit, and not
    assert step_words(steps([(2, 2)], ["goal"], truth)[0]) == (
        "row 3, column 3 (1.00), goal (0.90); true: row 1, column 2, ice"
    )


def test_the_strip_and_the_animation_show_every_latent_beside_its_true_frame() -> None:
    problems = generate_problems(SETTINGS.problems, SETTINGS.seed, quiet)
    image = render(MAZE, 28)
    film = steps([(0, 1), (1, 1)], ["ice", "ice"], [((0, 1), "ice"), ((1, 1), "ice")])
    frames = [next(iter(problems)).images[0]] * 2
    strip = strip_frames(film, image, frames)
    assert [each.verdict for each in strip] == ["right", "right"]
    assert all(each.imagined.startswith("data:image/webp") and each.true for each in strip)
    assert strip_frames(film, image, ())[0].true is None
    animation = Image.open(BytesIO(film_gif(film, image, frames)))
    assert animation.n_frames == 2 and animation.width > 2 * 196  # type: ignore[attr-defined]
