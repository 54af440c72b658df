"""The lengths of a recipe's own examples, against the encoder that training uses."""

from __future__ import annotations

import pytest

from mirage_core.config import Settings
from mirage_core.errors import SettingsError
from mirage_core.latent.encoder import Encoder, RegionLayout
from mirage_core.latent.examples import IGNORED
from mirage_core.model.loading import load_base_processor
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.token_counts import (
    RecipeRows,
    Row,
    _examples,
    _token_counter,
    count_test_problems,
    count_training_problems,
    recipe_rows,
)
from mirage_core.recipes import load


def counted(settings: Settings) -> list[Row]:
    counter = _token_counter(settings, [])
    return [counter.row(example) for example in _examples(settings, [])]


@pytest.mark.parametrize("variant", ["direct", "cot"])
def test_a_row_has_the_tokens_that_the_encoder_gives(variant: str) -> None:
    settings = load("tiny-paper", [f"teacher.variant={variant}"])
    encoder = Encoder(load_base_processor(settings.model), settings.latent, settings.prompt, settings.teacher.variant)
    examples = list(_examples(settings, []))
    assert {example.problem.group for example in examples} == {f"level-{level}" for level in (3, 4, 5, 6)}
    for example, row in zip(examples, counted(settings), strict=True):
        encoded = encoder.example(example, with_latents=True)
        span = settings.latent.num_latents + 2
        assert len(encoded.ids) == row.prompt + row.before + span + row.after
        assert len(encoder.prompt(example.problem).ids) == row.prompt
        assert int(encoded.auxiliary_grid_thw.prod()) // 4 == row.auxiliary
        # What is learned: the newline that ends the prompt, the text, latent_start and latent_end.
        assert int((encoded.labels != IGNORED).sum()) == row.before + row.after + 3


def test_a_stages_batch_has_the_columns_that_it_is_laid_out_in() -> None:
    settings = load("tiny-paper")
    rows = recipe_rows(settings)
    shape = Shape.longest(rows, settings)
    length = shape.prompt + shape.before + 6 + shape.after
    assert sum(shape.batch("relaxation", 1, padded=False).passes) == length
    assert shape.batch("grounding", 1, padded=False).passes == (length,)
    assert len(shape.batch("relaxation", 1, padded=False).passes) == settings.latent.num_latents + 1
    assert shape.batch("direct-sft", 1, padded=False).passes == (length - 6,)


@pytest.mark.parametrize("lvr", ["{}", "{region: crop, stop: vector}"])
def test_lvrs_spans_are_as_long_as_their_regions(lvr: str) -> None:
    settings = load("tiny-paper", [f"lvr={lvr}", "evaluation.methods=[lvr]"])
    encoder = Encoder(load_base_processor(settings.model), settings.latent, settings.prompt, settings.teacher.variant)
    layout = RegionLayout(crop=settings.lvr.region == "crop", stop_token=settings.lvr.stop == "vector")
    lengths = set()
    for example, row in zip(_examples(settings, []), counted(settings), strict=True):
        encoded = encoder.example(example, with_latents=True, regions=layout)
        assert len(encoded.ids) == row.prompt + row.before + row.regions + 2 + row.after
        assert row.crops == int(encoded.auxiliary_grid_thw.prod(-1).sum()) // 4
        lengths.add(row.regions)
        shape = Shape.longest(RecipeRows(rows=((row, 1.0),), train=1, test=1, notes=()), settings)
        batch = shape.batch("lvr", 1, padded=False)
        assert batch.passes == (len(encoded.ids),) and batch.image_features == row.image + row.crops
    assert len(lengths) > 1


def test_grounding_with_a_horizon_takes_the_passes_of_stage_2_and_holds_its_pictures_too() -> None:
    settings = load("tiny-paper", ["grounding.horizon=2"])
    shape = Shape.longest(recipe_rows(settings), settings)
    batch, relaxed = shape.batch("grounding", 1, padded=False), shape.batch("relaxation", 1, padded=False)
    assert (batch.passes, batch.image_features) == (relaxed.passes, relaxed.image_features + shape.auxiliary)
    blank = Shape.longest(recipe_rows(settings), load("tiny-paper", ["grounding.horizon=2", "latent.input=blank"]))
    assert len(blank.batch("grounding", 1, padded=False).passes) == 1


def test_latents_that_are_read_again_are_counted_and_blank_spans_are_one_pass() -> None:
    settings = load("tiny-paper", ["latent.bottleneck=latent_only"])
    rows, k = recipe_rows(settings), settings.latent.num_latents
    again, plain = (
        Shape.longest(rows, settings),
        Shape.longest(rows, load("tiny-paper", ["latent.bottleneck=latent_kv"])),
    )
    blank = Shape.longest(rows, load("tiny-paper", ["latent.bottleneck=latent_only", "latent.input=blank"]))
    for name in ("grounding", "relaxation"):
        batch, expected = again.batch(name, 2, padded=False), plain.batch(name, 2, padded=False)
        assert batch.passes == (*expected.passes[:-1], expected.passes[-1] + k)
    assert again.answers(1, 3, 50).tokens == plain.answers(1, 3, 50).tokens + 3 * k
    assert blank.batch("relaxation", 1, padded=False).passes == again.batch("grounding", 1, padded=False).passes
    assert again.batch("direct-sft", 1, padded=False) == plain.batch("direct-sft", 1, padded=False)


def test_rows_weigh_as_much_as_there_are_examples_of_their_kind() -> None:
    rows = recipe_rows(load("tiny-paper", ["problems.vsp_planning.train=300", "problems.vsp_reasoning.train=100"]))
    weights: dict[str, float] = {}
    for row, weight in rows.rows:
        weights[row.benchmark] = weights.get(row.benchmark, 0.0) + weight
    assert weights == pytest.approx({"vsp-planning": 0.75, "vsp-reasoning": 0.25})
    assert (rows.train, rows.notes) == (400, ())


def test_what_has_to_be_assumed_is_said() -> None:
    rows = recipe_rows(load("qwen2.5-vl-3b"))
    assert any("the tokenizer of Qwen/Qwen2.5-VL-3B-Instruct is not here" in note for note in rows.notes)
    # Published pictures of level 3 to 6, 64 px a cell: 192 to 384 px, 7 x 7 to 14 x 14 tokens.
    assert {row.image for row, _ in rows.rows} == {49, 81, 121, 196}


def test_problems_are_counted_by_what_the_settings_say() -> None:
    settings = load("tiny-paper")
    assert count_training_problems(settings.problems) == {"vsp-planning": 6000, "vsp-reasoning": 2000}
    assert count_test_problems(settings.problems) == 4 * 150 + 4 * 100
    more = load("tiny-paper", ["problems.vstar={}", "problems.hr_bench_4k={test: 7}"])
    assert count_test_problems(more.problems) == 1000 + 191 + 7
    assert len(recipe_rows(more).rows) == len(recipe_rows(settings).rows)  # what is only tested on is not looked for


def test_a_recipe_without_training_problems_cannot_be_planned() -> None:
    with pytest.raises(SettingsError, match="nothing to plan"):
        recipe_rows(load("tiny-paper", ["problems.vsp_planning=null", "problems.vsp_reasoning=null"]))
