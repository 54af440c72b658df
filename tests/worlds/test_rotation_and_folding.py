"""Patterns that turn and sheets that fold: their rules as properties, and drawings that read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_core.errors import InputError
from mirage_core.worlds.folding import (
    HOLE_RGB,
    SIDES,
    Fold,
    Region,
    draw_sheet,
    layers,
    new_holes,
    random_folds,
    random_holes,
    regions,
    unfolded,
)
from mirage_core.worlds.folding.art import PAPER, TABLE
from mirage_core.worlds.grid import Grid, canonical, grid_from_rows
from mirage_core.worlds.rotation import (
    COLOUR_RGB,
    cells_of_tile,
    draw_pattern,
    patterns_after,
    random_pattern,
    random_turns,
    turned,
)

SIDE, SEED = st.integers(3, 8), st.integers(0, 2**32 - 1)
TURN = st.sampled_from("RL")


def pattern_of(seed: int, side: int) -> Grid:
    return random_pattern(np.random.default_rng(seed), side)


def sheet_of(seed: int, side: int) -> tuple[Grid, list[Fold]]:
    rng = np.random.default_rng(seed)
    folds = random_folds(rng, side, side - 2, 4)
    return random_holes(rng, side, folds, 1)[0], folds


def centres(image: Image.Image, cell_px: int) -> np.ndarray:
    """The colours [n, n, 3] in the middle of each cell."""
    return np.asarray(image)[cell_px // 2 :: cell_px, cell_px // 2 :: cell_px]


@settings(max_examples=20)
@given(seed=SEED, side=SIDE, turn=TURN)
def test_four_turns_give_the_pattern_back_and_two_opposite_ones_do(seed: int, side: int, turn: str) -> None:
    pattern = pattern_of(seed, side)
    assert np.array_equal(patterns_after(pattern, turn * 4)[-1], pattern)
    assert np.array_equal(patterns_after(pattern, "RL")[-1], pattern)
    assert np.array_equal(turned(pattern, "R"), patterns_after(pattern, "LLL")[-1])


def test_a_clockwise_turn_takes_the_upper_row_to_the_right() -> None:
    pattern = grid_from_rows([[0, 1, 2], [3, 3, 3], [3, 3, 3]], 4)
    assert turned(pattern, "R")[:, 2].tolist() == [0, 1, 2]
    assert turned(pattern, "L")[:, 0].tolist() == [2, 1, 0]


@settings(max_examples=20)
@given(seed=SEED, side=SIDE, turns=st.text("RL", min_size=1, max_size=6), data=st.data())
def test_a_tile_keeps_its_colour_through_all_the_cells_where_it_stands(
    seed: int, side: int, turns: str, data: st.DataObject
) -> None:
    pattern = pattern_of(seed, side)
    end = data.draw(st.tuples(*[st.integers(0, side - 1)] * 2))
    cells = cells_of_tile(end, turns, side)
    shown = [pattern, *patterns_after(pattern, turns)]
    assert cells[-1] == end and len({int(each[cell]) for each, cell in zip(shown, cells, strict=True)}) == 1


@settings(max_examples=20)
@given(seed=SEED, side=SIDE, cell_px=st.sampled_from([8, 28, 64]))
def test_a_drawn_pattern_reads_back_by_colour(seed: int, side: int, cell_px: int) -> None:
    pattern = pattern_of(seed, side)
    read = centres(draw_pattern(pattern, cell_px), cell_px)
    assert np.array_equal(read, np.array(COLOUR_RGB)[pattern])


@settings(max_examples=20)
@given(seed=SEED, number=st.integers(1, 7))
def test_drawn_turns_never_cancel(seed: int, number: int) -> None:
    turns = random_turns(np.random.default_rng(seed), number)
    assert len(turns) == number and cells_of_tile((0, 0), turns, 3)[0] != (0, 0)


@settings(max_examples=20)
@given(seed=SEED, side=SIDE, turn=TURN)
def test_a_form_is_the_same_in_every_orientation_and_differs_where_a_tile_does(seed: int, side: int, turn: str) -> None:
    pattern = pattern_of(seed, side)
    assert canonical(turned(pattern, turn)) == canonical(pattern) == canonical(np.ascontiguousarray(pattern.T))
    other = pattern.copy()
    other[0, 0] = (other[0, 0] + 1) % 4
    assert canonical(other) != canonical(pattern)


@settings(max_examples=20)
@given(seed=SEED, side=SIDE)
def test_an_unfolded_sheet_is_symmetric_about_the_line_of_each_fold(seed: int, side: int) -> None:
    holes, folds = sheet_of(seed, side)
    sheets = unfolded(holes, folds)
    for sheet, fold, place in zip(sheets[1:], reversed(folds), regions(side, folds)[-2::-1], strict=True):
        # Turned so that the fold's side is at the top: the flap, then what it lay on.
        turns = {"top": 0, "right": 1, "bottom": 2, "left": 3}[fold.side]
        band = np.rot90(sheet[place.cells], turns)[: 2 * fold.width]
        assert np.array_equal(band, band[::-1])
    assert np.array_equal(sheets[-1][regions(side, folds)[-1].cells], holes[regions(side, folds)[-1].cells])


@settings(max_examples=20)
@given(seed=SEED, side=SIDE)
def test_every_cell_of_a_sheet_lies_in_one_layer_of_the_folded_sheet_and_each_hole_shows_as_often(
    seed: int, side: int
) -> None:
    holes, folds = sheet_of(seed, side)
    lies, sheets = layers(side, folds), unfolded(holes, folds)
    assert lies.depth.sum() == side * side and len(lies.bared) == len(folds)
    assert np.array_equal(holes.ravel()[lies.under], sheets[-1])
    assert (lies.depth > 0).sum() == regions(side, folds)[-1].area
    for shape in (1, 2, 3):
        assert (sheets[-1] == shape).sum() == lies.depth[holes == shape].sum()
    assert [bool(cells) for cells in new_holes(sheets)] == [bool(holes[each].any()) for each in lies.bared]
    assert sum(map(len, new_holes(sheets))) == (sheets[-1] > 0).sum() - (holes > 0).sum()


@settings(max_examples=20)
@given(seed=SEED, side=SIDE, cell_px=st.sampled_from([9, 28, 64]))
def test_a_drawn_sheet_reads_back_by_colour(seed: int, side: int, cell_px: int) -> None:
    holes, folds = sheet_of(seed, side)
    place = regions(side, folds)[-1]
    read = centres(draw_sheet(holes, place, cell_px), cell_px)
    colours = np.array([PAPER, *HOLE_RGB])[holes]
    outside = np.ones_like(holes, dtype=bool)
    outside[place.cells] = False
    colours[outside] = TABLE
    assert np.array_equal(read, colours)


def test_a_fold_that_is_wider_than_the_rest_is_refused() -> None:
    assert Region(0, 5, 0, 5).after(Fold("left", 2)) == Region(0, 5, 2, 5)
    for side in SIDES:
        with pytest.raises(InputError, match="a width of 1 to 2"):
            Region(0, 5, 0, 5).after(Fold(side, 3))
    with pytest.raises(InputError, match="expected a side among"):
        Region(0, 5, 0, 5).after(Fold("middle", 1))
    with pytest.raises(InputError, match="ask for fewer folds"):
        random_folds(np.random.default_rng(1), 3, 4, 4)


def test_what_is_no_grid_turn_or_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2\), expected"):
        grid_from_rows([[0, 1]], 4)
    with pytest.raises(InputError, match="numbers from 0 to 3"):
        grid_from_rows([[4]], 4)
    with pytest.raises(InputError, match="are no grid"):
        grid_from_rows([[0, 1], [0]], 4)
    with pytest.raises(InputError, match="one of R, L"):
        turned(grid_from_rows([[0]], 4), "U")
    with pytest.raises(InputError, match="1 or more"):
        random_turns(np.random.default_rng(1), 0)
