"""The maze's pictures: the benchmark's art, and reading a map back."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_core.errors import DataError, SettingsError
from mirage_core.worlds.maze import Player, art, maze_from_rows, picture_bytes, random_maze, read_maze, render

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])


def test_a_cell_is_64_pixels_with_an_outline_and_an_elf_above_the_start():
    pixels = np.array(render(MAZE))
    assert pixels.shape == (192, 192, 3)
    assert (pixels[0] == art.OUTLINE).all()
    assert (pixels[64, 64:128] == art.OUTLINE).all()
    start, safe = pixels[:64, :64], pixels[:64, 64:128]
    assert (start != safe).any()


def test_the_stool_is_seen_at_the_start_once_the_player_has_gone():
    gone = np.array(render(MAZE, player=Player((0, 1), "R")))
    before = np.array(render(MAZE))
    assert (gone[:64, :64] != before[:64, :64]).any()
    assert (gone[:64, 64:128] != before[:64, 64:128]).any()
    assert (gone[64:] == before[64:]).all()


def test_the_elf_looks_where_it_moved_and_gives_way_to_cracks_in_a_hole():
    images = {facing: render(MAZE, player=Player((0, 1), facing)).tobytes() for facing in "UDLR"}
    assert len(set(images.values())) == 4
    cracked = {render(MAZE, player=Player((1, 1), facing)).tobytes() for facing in "UDLR"}
    assert len(cracked) == 1
    assert cracked != {render(MAZE, player=Player((0, 1))).tobytes()}


def test_the_drawing_is_the_one_compared_with_the_published_pictures():
    # Taken when every picture of ../shared/vsp, planning and reasoning, was matched within 1 grey level.
    drawn = [render(MAZE), render(MAZE, player=Player((0, 1), "R")), render(MAZE, player=Player((1, 1), "D"))]
    digest = hashlib.sha256(b"".join(image.tobytes() for image in drawn)).hexdigest()
    assert digest[:16] == "217b6fd269b3a52b"


@given(st.integers(0, 2**32), st.sampled_from((3, 6, 16)), st.sampled_from("UDLR"), st.data())
@settings(max_examples=20, deadline=None)
def test_a_map_is_read_back_from_its_picture_wherever_the_player_stands(seed, level, facing, data):
    maze = random_maze(np.random.default_rng(seed), level, 0.3)
    cell = (data.draw(st.integers(0, level - 1)), data.draw(st.integers(0, level - 1)))
    assert read_maze(render(maze)) == maze
    assert read_maze(render(maze, player=Player(cell, facing))) == maze


def test_a_map_is_read_from_small_pictures_and_from_jpeg():
    assert read_maze(render(MAZE, 28), 28) == MAZE
    buffer = io.BytesIO()
    render(MAZE).save(buffer, "JPEG", quality=90)
    assert read_maze(Image.open(buffer)) == MAZE


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (192, 128)), "192x128"),
        (Image.new("RGB", (200, 200)), "200x200"),
        (Image.new("RGB", (192, 192), "green"), "row 1, column 1"),
        (render(MAZE).crop((64, 0, 192, 128)).resize((192, 192)), "image"),
    ],
)
def test_a_picture_that_is_no_maze_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        read_maze(image)


def test_other_art_is_refused_with_the_way_out(tmp_path, monkeypatch):
    for name in art._ART:
        Image.new("RGBA", (32, 32), "red").save(tmp_path / f"{name}.png")
    monkeypatch.setattr(art, "_art_folder", lambda: tmp_path)
    with pytest.raises(SettingsError, match=r"gymnasium<=1\.2\.3"):
        art._art.__wrapped__()
    (tmp_path / "ice.png").unlink()
    with pytest.raises(SettingsError, match="cannot read the FrozenLake art"):
        art._art.__wrapped__()


def test_the_same_picture_has_the_same_bytes():
    assert picture_bytes(render(MAZE)) == picture_bytes(render(MAZE))
    decoded = np.array(Image.open(io.BytesIO(picture_bytes(render(MAZE)))))
    assert (decoded == np.array(render(MAZE))).all()
