"""The from-scratch tokenizer and the processor without torchvision."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_core.errors import SettingsError
from mirage_core.model.processing import ImageTextProcessor, build_processor, load_processor, save_processor
from mirage_core.model.tokenizer import SPECIAL_TOKENS, build_tokenizer

TOKENIZER = build_tokenizer(512)


def pieces(text: str) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(TOKENIZER(text).input_ids)


def test_the_tokenizer_has_exactly_the_wanted_number_of_tokens_with_the_special_ones_last() -> None:
    assert len(TOKENIZER) == 512
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(512 - len(SPECIAL_TOKENS), 512))


def test_every_move_of_a_boxed_plan_is_one_token() -> None:
    assert pieces("\\boxed{RRDLLU}") == ["\\boxed", "{", "R", "R", "D", "L", "L", "U", "}"]


@settings(max_examples=60, deadline=None)
@given(st.text("UDLR", min_size=1, max_size=12), st.sampled_from(["\\boxed{%s}", "Plan: %s\n", "(%s)", "go %s, then"]))
def test_moves_are_single_tokens_wherever_they_stand(plan: str, around: str) -> None:
    inside = [piece.removeprefix("Ġ") for piece in pieces(around % plan)]
    assert "".join(piece for piece in inside if piece and set(piece) <= set("UDLR")) == plan
    assert all(len(piece) == 1 for piece in inside if piece and set(piece) <= set("UDLR"))


def test_a_transcribed_map_has_one_token_a_cell() -> None:
    shown = "S..#\n.#.G\n####\n...."
    assert pieces(shown) == ["Ċ" if symbol == "\n" else symbol for symbol in shown]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_encodes_and_comes_back_in_normal_form(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    if "<|" not in normal:
        assert TOKENIZER.decode(TOKENIZER(text).input_ids, clean_up_tokenization_spaces=False) == normal


def test_building_twice_gives_the_same_tokenizer() -> None:
    assert build_tokenizer(512).backend_tokenizer.to_str() == build_tokenizer(512).backend_tokenizer.to_str()


@pytest.mark.parametrize("size", [100, 272, 5000])
def test_a_vocabulary_of_an_impossible_size_is_refused_with_the_way_out(size: int) -> None:
    with pytest.raises(SettingsError, match=r"at (least|most) \d+"):
        build_tokenizer(size)


def test_the_chat_template_puts_the_picture_where_it_stands_and_adds_no_system_turn() -> None:
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nPlan:"}]}
    shown = TOKENIZER.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert shown == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>\nPlan:<|im_end|>\n<|im_start|>assistant\n"
    )
    system = {"role": "system", "content": "Be brief."}
    assert TOKENIZER.apply_chat_template([system], tokenize=False) == "<|im_start|>system\nBe brief.<|im_end|>\n"


def noise(cells: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (28 * cells, 28 * cells, 3), dtype=np.uint8))


def test_a_picture_of_28_px_a_cell_gets_one_token_a_cell() -> None:
    processor = build_processor(512)
    encoded = processor(images=[noise(3)], text=["<|image_pad|>"], return_tensors="pt")
    assert encoded["image_grid_thw"].tolist() == [[1, 6, 6]]
    assert encoded["input_ids"].tolist() == [[processor.image_token_id] * 9]


def test_a_saved_processor_loads_from_its_folder_and_saves_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    processor = build_processor(512)
    save_processor(first, processor)
    loaded = load_processor(first)
    save_processor(second, loaded)
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}
    call = {"images": [noise(4)], "text": ["<|image_pad|> go"], "return_tensors": "pt"}
    before, after = processor(**call), loaded(**call)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_stock_way_of_saving_a_processor_works_too(tmp_path: Path) -> None:
    build_processor(512).save_pretrained(tmp_path)
    loaded = ImageTextProcessor.from_pretrained(tmp_path)
    assert len(loaded.tokenizer) == 512
    assert loaded.image_processor.size["shortest_edge"] == 28 * 28


def test_a_folder_in_the_layout_of_the_published_model_is_read(tmp_path: Path) -> None:
    build_tokenizer(512).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,'
        ' "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}'
    )
    size = load_processor(tmp_path).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, 12845056)


@pytest.mark.parametrize("broken", ["nothing", "no tokenizer", "json"])
def test_a_folder_without_a_readable_processor_is_named(tmp_path: Path, broken: str) -> None:
    if broken != "nothing":
        save_processor(tmp_path, build_processor(512))
        if broken == "json":
            (tmp_path / "preprocessor_config.json").write_text("{")
        else:
            (tmp_path / "tokenizer.json").unlink()
            (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(SettingsError, match=str(tmp_path)):
        load_processor(tmp_path)
