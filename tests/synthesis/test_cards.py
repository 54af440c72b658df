"""The card and the contact sheet of a data set: what is counted, what is shared with the test, what is shown."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from mirage_core.benchmarks import vsp_planning
from mirage_core.dataset_card.card import card_markdown, data_card
from mirage_core.dataset_card.contact_sheet import contact_page, contact_sheet
from mirage_core.dataset_card.duplicates import Duplicate, problem_key, shared_with_test
from mirage_core.dataset_card.statistics import tally_of
from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, Rejection, TrainingExample
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render
from tests.benchmarks.data_sets import opened, picture
from tests.synthesis.examples import planning_example


def question(name: str, image: bytes, words: str = "Where?") -> Problem:
    return Problem(
        id=name, benchmark="sat", split="train", group="perspective", question=f"<image>\n{words}", images=(image,),
        answer="A", facts={"options": ["left", "right"]},
    )  # fmt: skip


def example_of(problem: Problem) -> TrainingExample:
    return TrainingExample(
        problem=problem,
        auxiliary_image=AuxiliaryImage(problem_id=problem.id, image=picture(5), style="cogvideox-frame"),
        chain=ReasoningChain(
            problem_id=problem.id, variant="direct", text_before="", text_after="\\boxed{A}", teacher="oracle"
        ),
    )


def rejection(name: str, reason: str, left_out: bool) -> Rejection:
    return Rejection(
        problem_id=name, benchmark="sat", split="train", group="perspective", variant="cot", teacher="t", attempt=1,
        reason=reason, faults=(reason,), answer="?", left_out=left_out,
    )  # fmt: skip


def shared(examples: list[TrainingExample], tests: list[Problem]) -> list[Duplicate]:
    return shared_with_test(tally_of(examples).keys, [problem_key(problem) for problem in tests])


def smaller(data: bytes) -> bytes:
    """The same picture, scaled and as JPEG."""
    buffer = io.BytesIO()
    opened(data).resize((70, 70)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_a_rotated_maze_of_the_test_is_found_among_the_examples() -> None:
    rows = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
    turned = maze_from_rows(np.rot90(rows).tolist())
    other = maze_from_rows([[1, 0, 2], [0, 0, 0], [0, 0, -1]])
    tests = [
        vsp_planning.make_problem(name, "test", maze, picture_bytes(render(maze, 64)), "R")
        for name, maze in (("turned", turned), ("other", other))
    ]
    duplicates = shared([planning_example("", "\\boxed{RRDD}")], tests)

    assert [(pair.example_id, pair.test_id, pair.how) for pair in duplicates] == [("p", "turned", "the same map")]


def test_a_scaled_copy_of_a_test_picture_is_found_among_the_examples() -> None:
    examples = [example_of(question(f"e{n}", picture(n))) for n in range(6)]
    tests = [
        dataclasses.replace(question("t1", smaller(picture(3))), split="test"),
        dataclasses.replace(question("t2", smaller(picture(4)), "Who is there?"), split="test"),
        dataclasses.replace(question("t3", picture(50)), split="test"),
    ]
    duplicates = {(pair.example_id, pair.test_id): pair.how for pair in shared(examples, tests)}

    assert duplicates == {("e3", "t1"): "pictures alike, the same question", ("e4", "t2"): "pictures alike"}


def test_the_card_counts_what_is_there_and_what_went() -> None:
    examples = [planning_example("", "\\boxed{RRDD}"), example_of(question("e", picture(1)))]
    rejections = [
        rejection("x", "wrong-answer", False),
        rejection("x", "wrong-answer", True),
        rejection("y", "box", True),
    ]
    card = data_card(tally_of(examples), rejections, [], {"teacher": {"kind": "oracle"}}, {"problems": "0" * 64})

    assert card["examples"] == 2 and card["left_out"] == 2
    assert {(row["benchmark"], row["examples"]) for row in card["counts"]} == {("vsp-planning", 1), ("sat", 1)}
    assert [(row["reason"], row["answers"]) for row in card["rejections"]] == [("wrong-answer", 2), ("box", 1)]
    assert card["chains_by"] == {"oracle": 1, "test": 1} and card["settings"] == {"teacher": {"kind": "oracle"}}
    page = card_markdown(card)
    assert "wrong-answer: 2 answers, such as x, x" in page and "2 problems were left out" in page
    assert "chains by oracle 1, test 1" in page and "array/SAT" in page


def test_the_sheet_shows_every_group_with_the_imagined_picture_last() -> None:
    examples = [example_of(question(f"e{n}", picture(n))) for n in range(9)] + [planning_example("", "\\boxed{RRDD}")]
    chosen = tally_of(examples).sample()
    sheet = Image.open(io.BytesIO(contact_sheet(chosen)))

    assert [example.problem.benchmark for example in chosen] == ["sat", "sat", "vsp-planning"]
    assert tally_of(examples[::-1]).sample() == chosen, "the sample depends on the order"
    assert sheet.height > 3 * 180 and sheet.getpixel((10 + 180 + 10 - 2, 10 + 16 - 2)) == (200, 30, 30)
    page = contact_page(chosen, "a <title>")
    assert "a &lt;title&gt;" in page and page.count('class="imagined"') == 3


def test_an_empty_data_set_has_a_card_and_a_sheet_too() -> None:
    assert data_card(tally_of([]), [], [], {}, {})["examples"] == 0
    assert contact_sheet([])
