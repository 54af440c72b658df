"""Jigsaw: cutting, splits without leaks, and BLINK's rows."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks import jigsaw
from mirage_core.benchmarks.near_duplicates import near_groups, near_pairs, perceptual_hash
from mirage_core.config import AuxiliaryImageSettings, JigsawData
from mirage_core.errors import DataError
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem
from mirage_core.worlds.jigsaw import draw_image, same_piece, stitch
from mirage_core.worlds.jigsaw.cut import MIN_DIFFERENCE, correct_piece, difference
from tests.benchmarks.data_sets import blink_folder, opened, photographs, picture

SMALL = JigsawData(train=12, validation=2, test=5, side_px=64)


def quiet(event: object) -> None:
    """Nobody listens."""


def jigsaw_of(data: JigsawData, seed: int = 1) -> list[Problem]:
    return list(jigsaw.jigsaw_problems(data, seed, quiet))


def test_the_right_piece_completes_the_picture_and_the_wrong_one_does_not() -> None:
    for problem in jigsaw_of(SMALL):
        reference, *pieces = map(opened, problem.images)
        right = pieces["AB".index(problem.answer)]
        wrong = pieces[1 - "AB".index(problem.answer)]
        assert reference.size == (64, 64) and right.size == wrong.size == (32, 32)
        assert not np.asarray(reference.crop((32, 32, 64, 64))).any(), "the lower right quarter is still there"
        assert difference(right, wrong) >= MIN_DIFFERENCE
        source = draw_image(np.random.default_rng([1, int(problem.facts["source"].split("-")[1])]), 64)
        assert np.array_equal(np.asarray(stitch(reference, right)), np.asarray(source))


def test_every_split_has_what_was_asked_for_and_both_letters_are_right_sometimes() -> None:
    problems = jigsaw_of(JigsawData(train=40, validation=4, test=10, side_px=64))

    assert Counter(problem.split for problem in problems) == {"train": 40, "validation": 4, "test": 10}
    assert len({problem.id for problem in problems}) == len(problems)
    assert 10 <= Counter(problem.answer for problem in problems)["A"] <= 44
    assert problems == jigsaw_of(JigsawData(train=40, validation=4, test=10, side_px=64))


def test_copies_of_a_picture_in_other_sizes_and_formats_stay_in_one_split(tmp_path: Path) -> None:
    folder = photographs(tmp_path, 60)
    for number in range(60):
        copy = opened(picture(number, 80)).resize((120, 120))
        buffer = io.BytesIO()
        copy.save(buffer, "JPEG", quality=70)
        (folder / f"copy-{number:03d}.jpg").write_bytes(buffer.getvalue())
    data = JigsawData(pictures=str(folder), train=40, validation=3, test=15, side_px=64)

    splits: dict[str, set[str]] = {}
    for problem in jigsaw_of(data):
        number = Path(problem.facts["source"]).stem.removeprefix("copy-")
        splits.setdefault(number, set()).add(problem.split)

    assert all(len(split_set) == 1 for split_set in splits.values()), "a picture stands in two splits"
    assert sum(len(split_set) for split_set in splits.values()) < 58, "no copy was used: the test says nothing"


def test_a_near_wrong_piece_comes_from_another_picture_of_the_same_split(tmp_path: Path) -> None:
    data = JigsawData(pictures=str(photographs(tmp_path, 60)), train=10, validation=1, test=5, side_px=64, wrong="near")
    problems = jigsaw_of(data)

    for problem in problems:
        assert problem.facts["wrong"] == "near"
        wrong = opened(problem.images[1 + (1 - "AB".index(problem.answer))])
        others = [opened(p.images[1 + "AB".index(p.answer)]) for p in problems if p.split != problem.split]
        assert all(difference(wrong, other) > 0 for other in others), "the piece comes from another split"


def test_too_few_pictures_are_an_error_that_counts(tmp_path: Path) -> None:
    data = JigsawData(pictures=str(photographs(tmp_path, 8)), train=100, side_px=64)

    with pytest.raises(DataError, match=r"problems are missing.*has 8 images"):
        jigsaw_of(data)


def test_a_picture_of_one_colour_makes_no_jigsaw() -> None:
    assert same_piece(np.random.default_rng(0), Image.new("RGB", (64, 64), (90, 90, 90))) is None


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture(1))
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").symlink_to(outside)

    with pytest.raises(DataError, match=r"a link out of"):
        jigsaw_of(JigsawData(pictures=str(folder), side_px=64))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (photographs(tmp_path, 3) / "001.jpg").write_bytes(b"\xff\xd8\xff not a picture")

    with pytest.raises(DataError, match=r"001\.jpg cannot be decoded"):
        jigsaw_of(JigsawData(pictures=str(tmp_path), side_px=64))


def test_blinks_rows_are_read_from_its_folder_and_judged(tmp_path: Path) -> None:
    problems = jigsaw.load(blink_folder(tmp_path))

    assert [(problem.id, problem.answer) for problem in problems] == [
        ("blink-val_Jigsaw_1", "A"), ("blink-val_Jigsaw_2", "B"), ("blink-val_Jigsaw_3", "A"),
    ]  # fmt: skip
    assert problems[0].question.count("<image>") == len(problems[0].images) == 3
    assert "(B) the third image" in problems[0].question
    benchmark = benchmarks.get("jigsaw")
    assert benchmark.score(problems[0], "<think>edges</think> \\boxed{A}").correct
    assert benchmark.score(problems[0], "It is the second image.").correct
    assert not benchmark.score(problems[0], "\\boxed{B}").correct
    assert benchmark.score(problems[0], "no idea").parsed is None


def test_hidden_answers_are_refused(tmp_path: Path) -> None:
    file = blink_folder(tmp_path) / "Jigsaw" / "test-00000-of-00001.parquet"

    with pytest.raises(DataError, match=r"row 1: the answer is hidden"):
        jigsaw.load(file)


def test_the_imagined_picture_shows_both_pieces_in_their_place() -> None:
    problem = jigsaw_of(SMALL)[0]
    both = draw_auxiliary_images([problem], AuxiliaryImageSettings(), 64, 1, quiet)[0]
    right = draw_auxiliary_images([problem], AuxiliaryImageSettings(jigsaw_layout="right"), 64, 1, quiet)[0]

    assert opened(both.image).size == (64 + 8 + 64, 64) and opened(right.image).size == (64, 64)
    first = opened(both.image).crop((32, 32, 64, 64))
    assert np.array_equal(np.asarray(first), np.asarray(opened(problem.images[1])))
    completed = correct_piece(opened(right.image))
    assert np.array_equal(np.asarray(completed), np.asarray(opened(problem.images[1 + "AB".index(problem.answer)])))


def test_near_hashes_are_found_and_grouped() -> None:
    pictures = [draw_image(np.random.default_rng(seed), 64) for seed in range(20)]
    hashes = [perceptual_hash(image) for image in pictures] + [perceptual_hash(pictures[3].resize((200, 200)))]

    assert (3, 20) in list(near_pairs(hashes, hashes))
    groups = near_groups(hashes)
    assert groups[20] == groups[3] and len(set(groups)) == 20
