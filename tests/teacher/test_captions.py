"""CapImagine's data: captions in the place of pictures, and the filter with its counts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import AuxiliaryImageSettings, CaptionSettings, Settings
from mirage_core.errors import TeacherError
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher.caption_examples import caption_examples
from mirage_core.teacher.captions import caption_faults, oracle_caption, with_caption
from mirage_core.teacher.examples import write_examples
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.types import TrainingExample

SMALL = [
    "problems.vsp_planning.train=12", "problems.vsp_reasoning.train=12", "problems.jigsaw.train=6",
    "problems.jigsaw.validation=0", "problems.jigsaw.test=0", "problems.jigsaw.side_px=64",
]  # fmt: skip
LIMITS = CaptionSettings()


def quiet(event: object) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load("micro", SMALL)


@pytest.fixture(scope="module")
def examples(settings: Settings) -> list[TrainingExample]:
    """CoT chains of the oracle for every benchmark it knows."""
    problems = [problem for problem, _ in sourced_problems(settings.problems, 3, quiet) if problem.split == "train"]
    images = draw_auxiliary_images(problems, AuxiliaryImageSettings(), 64, 3, quiet)
    return write_examples(OracleTeacher(), problems, images, "cot", quiet)


def test_the_oracles_captions_say_what_the_pictures_show(examples: list[TrainingExample]) -> None:
    for example in examples:
        caption = oracle_caption(example, LIMITS)
        assert caption == oracle_caption(example, LIMITS)
        assert not caption_faults(with_caption(example, caption), LIMITS)
        if example.problem.benchmark == "vsp-planning":
            assert caption.count(" to (") == len(example.problem.answer)
        if example.problem.benchmark == "vsp-reasoning":
            steps = example.auxiliary_image.details["step"]
            assert f"{steps} move" in caption


FILM = CaptionSettings(of="film")


@pytest.mark.parametrize("film", ["forward", "wave", "search"])
def test_the_caption_of_a_film_says_place_and_kind_of_every_frame(settings: Settings, film: Any) -> None:
    problems = [problem for problem, _ in sourced_problems(settings.problems, 3, quiet) if problem.split == "train"]
    mazes = [problem for problem in problems if problem.benchmark.startswith("vsp")]
    images = draw_auxiliary_images(mazes, AuxiliaryImageSettings(film=film), 64, 3, quiet)
    for example in write_examples(OracleTeacher(), mazes, images, "direct", quiet):
        caption, details = oracle_caption(example, FILM), example.auxiliary_image.details
        frames = [re.findall(r"\((\d),(\d)\) (\w+)", part) for part in caption.split(", ")]
        assert len(frames) == details["frames"]
        cells = [cell if isinstance(cell[0], list) else [cell] for cell in details["cells"]]
        kinds = [kind if isinstance(kind, list) else [kind] for kind in details["kinds"]]
        assert [[[int(row), int(column)] for row, column, _ in frame] for frame in frames] == cells
        assert [[kind for _, _, kind in frame] for frame in frames] == kinds
        assert not caption_faults(with_caption(example, caption), FILM)


def test_a_film_without_labels_has_no_caption(examples: list[TrainingExample]) -> None:
    with pytest.raises(TeacherError, match=r"captions\.of is film, but .* set captions\.of to image for other data"):
        oracle_caption(examples[0], FILM)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("The arrows lead from (0,0) to a far (7,7).", "conflict"),
        ("I see <think>arrows</think> on the map.", "structure"),
        ("The box says \\boxed{RRDD}, it seems.", "structure"),
        ("Arrows.", "length"),
        ("On and on. " * 200, "length"),
    ],
)
def test_a_caption_that_may_not_be_taught_is_named(examples: list[TrainingExample], caption: str, reason: str) -> None:
    example = next(example for example in examples if example.problem.benchmark == "vsp-planning")

    assert caption_faults(with_caption(example, caption), LIMITS)[0].reason == reason


def test_a_caption_that_names_another_option_or_several_is_filtered(examples: list[TrainingExample]) -> None:
    example = next(example for example in examples if example.problem.benchmark == "jigsaw")
    right = example.problem.answer
    wrong = "B" if right == "A" else "A"

    def reasons(caption: str) -> list[str]:
        return [fault.reason for fault in caption_faults(with_caption(example, caption), LIMITS)]

    assert reasons(f"It goes on across the seam of piece ({wrong}).") == ["conflict"]
    assert reasons("Pieces (A) and (B) both go on across the seam.") == ["ambiguous"]
    assert reasons(f"It goes on across the seam of piece ({right}).") == []


def test_what_is_left_out_is_counted_with_its_reason(
    settings: Settings, examples: list[TrainingExample], monkeypatch: pytest.MonkeyPatch, tmp_path_factory
) -> None:
    bad = {examples[1].problem.id, examples[5].problem.id}

    def sometimes_wrong(example: TrainingExample, limits: CaptionSettings) -> str:
        return "Too short" if example.problem.id in bad else oracle_caption(example, limits)

    monkeypatch.setattr("mirage_core.teacher.caption_examples.oracle_caption", sometimes_wrong)
    store = Store.open(tmp_path_factory.mktemp("store"))
    parts = list(caption_examples(examples, settings, store, quiet))
    kept = [example for part in parts for example in part.examples]
    gone = [rejection for part in parts for rejection in part.rejections]

    assert [example.problem.id for example in kept] == [e.problem.id for e in examples if e.problem.id not in bad]
    assert all(example.chain.caption for example in kept)
    assert {rejection.problem_id for rejection in gone} == bad
    assert {rejection.reason for rejection in gone} == {"length"} and all(rejection.left_out for rejection in gone)


def test_the_oracle_says_what_it_cannot_caption(examples: list[TrainingExample]) -> None:
    example = replace(examples[0], problem=replace(examples[0].problem, benchmark="comt"))

    with pytest.raises(TeacherError, match=r"cannot say what the picture .* shows.*teacher\.kind=endpoint"):
        oracle_caption(example, LIMITS)


def test_a_caption_stands_where_the_latents_would(settings: Settings, examples: list[TrainingExample]) -> None:
    from mirage_core.latent.encoder import Encoder
    from mirage_core.model.loading import load_base_processor

    processor = load_base_processor(settings.model)
    encoder = Encoder(processor, settings.latent, settings.prompt, "cot")
    example = with_caption(examples[0], oracle_caption(examples[0], LIMITS))
    text = processor.tokenizer.decode(encoder.example(example, with_latents=False).ids)
    latents = processor.tokenizer.decode(encoder.example(example, with_latents=True).ids)

    chain = example.chain
    assert chain.text_before + chain.caption + chain.text_after in text
    assert chain.caption not in latents and "<|latent_start|>" in latents
