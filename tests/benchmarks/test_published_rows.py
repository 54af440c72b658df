"""Published rows: loaded whole, or refused with file, line and way out."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.vsp_prompts import PLANNING, REASONING, with_ending
from mirage_core.errors import DataError
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, random_maze, render, shortest_path

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])


def planning_row(**changes):
    row = {
        "text_input": with_ending(PLANNING, "direct"),
        "image_input": "imgs/a.png",
        "map_id": "1",
        "map_desc": MAZE.rows(),
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


def reasoning_row(**changes):
    row = {
        "text_input": with_ending(REASONING.replace("{plan}", "RIGHT, DOWN"), "cot"),
        "text_output": "<think>down</think><output_image>The answer is \\boxed{B}.",
        "image_input": "imgs/a.png",
        "image_output": "imgs/b.png",
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


@pytest.fixture
def published(tmp_path):
    """Writes rows as a published folder; returns the JSONL file."""

    def write(*rows, maze=MAZE):
        (tmp_path / "imgs").mkdir(exist_ok=True)
        (tmp_path / "imgs" / "a.png").write_bytes(picture_bytes(render(maze)))
        file = tmp_path / "test.jsonl"
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return file

    return write


def test_a_planning_row_becomes_a_problem_with_map_answer_and_its_own_picture(published):
    file = published(planning_row(), "", planning_row())
    first, second = benchmarks.get("vsp-planning").load(file)
    assert (first.id, second.id) == ("test-00001", "test-00003")
    assert (first.group, first.split, first.answer) == ("level-3", "test", shortest_path(MAZE))
    assert first.facts["map"] == MAZE.rows()
    assert first.images == ((file.parent / "imgs/a.png").read_bytes(),)
    assert first.question.count("<image>") == 1


def test_a_reasoning_row_gives_plan_answer_level_and_the_map_in_its_picture(published):
    (problem,) = benchmarks.get("vsp-reasoning").load(published(reasoning_row()), "train")
    assert (problem.answer, problem.group, problem.split) == ("B", "level-3", "train")
    assert problem.facts == {"plan": "RD", "map": MAZE.rows()}


def test_a_reasoning_picture_in_other_art_leaves_the_map_out(published):
    file = published(reasoning_row())
    Image.new("RGB", (256, 256), "green").save(file.parent / "imgs" / "a.png")
    (problem,) = vsp_reasoning.load(file)
    assert problem.group == "level-4"
    assert "map" not in problem.facts


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (planning_row(text_input=None), "'text_input' is missing"),
        (planning_row(text_input=3), "expected text"),
        (planning_row(text_input="where?"), "'<image>'"),
        (planning_row(text_input="<image> <image>"), "2 times '<image>'"),
        (planning_row(image_input=None), "'image_input' is missing"),
        (planning_row(image_input="imgs/none.png"), "is missing; expected it at"),
        (planning_row(image_input="../secret.png"), "leaves the file's folder"),
        (planning_row(image_input="/etc/passwd"), "leaves the file's folder"),
        (planning_row(image_input="a\0b"), "not a file name"),
        (planning_row(image_input=""), "leaves the file's folder"),
        (planning_row(image_input="test.jsonl"), "cannot be decoded"),
        (planning_row(map_desc=None), "'map_desc' is missing"),
        (planning_row(map_desc=[[0, 0, 0], [0, -1, 0], [0, 0, 2]]), "exactly one start"),
        (planning_row(map_desc=[[1, -1, 0], [-1, -1, 0], [0, 0, 2]]), "cannot be reached"),
    ],
)
def test_a_bad_planning_row_is_named_by_file_and_line(published, row, what):
    file = published(planning_row(), row)
    with pytest.raises(DataError, match=what) as caught:
        vsp_planning.load(file)
    assert "test.jsonl, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (reasoning_row(text_output=None), "'text_output' is missing"),
        (reasoning_row(text_output="It works (A)."), "boxes none of A, B, C"),
        (reasoning_row(text_output="\\boxed{D}"), "boxes none of A, B, C"),
        (reasoning_row(text_input="<image> no plan"), "no plan found"),
        (reasoning_row(text_input="<image> Full Action Plan: RIGHT, JUMP"), "JUMP"),
    ],
)
def test_a_bad_reasoning_row_is_named_by_file_and_line(published, row, what):
    with pytest.raises(DataError, match=what) as caught:
        vsp_reasoning.load(published(row))
    assert "test.jsonl, line 1" in str(caught.value)


def test_a_reasoning_picture_of_a_wrong_size_is_refused(published):
    file = published(reasoning_row())
    Image.new("RGB", (190, 190)).save(file.parent / "imgs" / "a.png")
    with pytest.raises(DataError, match="190x190"):
        vsp_reasoning.load(file)


def test_a_link_out_of_the_folder_is_refused(published, tmp_path_factory):
    file = published(planning_row(image_input="imgs/link.png"))
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    outside.write_bytes(picture_bytes(render(MAZE)))
    (file.parent / "imgs" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match="leaves the file's folder"):
        vsp_planning.load(file)


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"not a picture", "cannot be decoded"),
        (picture_bytes(render(MAZE))[:500], "cannot be decoded"),
        (png_header(8000, 8000), "at most"),
        (png_header(12000, 12000), "cannot be decoded"),
        (png_header(60000, 60000), "cannot be decoded"),
    ],
)
def test_a_broken_or_huge_picture_is_refused_before_it_is_unpacked(published, data, what):
    file = published(planning_row())
    (file.parent / "imgs" / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=what):
        vsp_planning.load(file)


def test_a_format_that_no_data_set_uses_is_refused_with_the_ones_that_are_read(published):
    file = published(planning_row())
    buffer = io.BytesIO()
    render(MAZE).save(buffer, "PPM")
    (file.parent / "imgs" / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="PNG, JPEG, WebP, GIF, BMP or TIFF"):
        vsp_planning.load(file)


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        vsp_planning.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        vsp_planning.load(tmp_path / "empty.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        vsp_planning.load(tmp_path / "bytes.jsonl")


def test_the_same_answers_are_loaded_for_every_level(published):
    rng = np.random.default_rng(1)
    for level in (3, 6, 8):
        maze = random_maze(rng, level)
        (problem,) = vsp_planning.load(published(planning_row(map_desc=maze.rows()), maze=maze))
        assert vsp_planning.score(problem, f"\\boxed{{{problem.answer}}}").correct
