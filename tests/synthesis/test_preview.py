"""Examples as the model sees them: the mask, the span and the target cells are those of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.config import LatentSettings
from mirage_core.dataset_card.preview import preview, preview_page, target_cells
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import picture


@pytest.mark.parametrize("compression", ["even", "drop_tail"])
def test_the_cells_are_those_that_compress_averages(compression: str) -> None:
    import torch

    from mirage_core.latent.compress import compress

    latent = LatentSettings.model_validate({"num_latents": 4, "compression": compression})
    cells = target_cells([1, 6, 10], 2, latent)
    features = torch.randn(15, 8)
    averaged = compress(features, 4, latent.compression)

    assert cells.shape == (3, 5)
    for index in range(4):
        assert torch.allclose(features[torch.from_numpy(cells.ravel() == index)].mean(0), averaged[index], atol=1e-6)
    assert ((cells == -1).sum() == 3) == (compression == "drop_tail")


def test_the_cells_of_changed_patches_are_told_and_no_others() -> None:
    import torch

    latent = LatentSettings(num_latents=2, compression="changed_patches")
    mask = torch.tensor([False, True, True, False, False, True])
    assert target_cells([1, 4, 6], 2, latent, mask).ravel().tolist() == [-1, 0, 0, -1, -1, 1]
    more = LatentSettings(num_latents=5, compression="changed_patches")
    assert target_cells([1, 4, 6], 2, more, mask).ravel().tolist() == [-1, 0, 2, -1, -1, 4], "the first that shares it"


def test_pieces_carry_the_label_mask_and_the_latent_span() -> None:
    from mirage_core.latent.encoder import Encoder
    from mirage_core.model.loading import load_base_processor
    from mirage_core.recipes import load
    from tests.synthesis.examples import planning_example

    settings = load("tiny-paper")
    processor = load_base_processor(settings.model)
    encoder = Encoder(processor, settings.latent, settings.prompt, "cot")
    example = planning_example("<think>Look.</think>", "<think>Go.</think>\\boxed{RRDD}")
    shown = preview(example, encoder, processor, settings.latent)
    encoded = encoder.example(example, with_latents=True)

    assert sum(piece.tokens for piece in shown.pieces) == shown.tokens == len(encoded.ids)
    assert sum(piece.tokens for piece in shown.pieces if piece.part == "supervised") == shown.supervised
    assert [piece.tokens for piece in shown.pieces if piece.part == "latent"] == [settings.latent.num_latents]
    text = "".join(piece.text for piece in shown.pieces if piece.part == "supervised")
    assert "<think>Look.</think>" in text and "\\boxed{RRDD}" in text and "<|latent_start|>" in text
    assert "RRDD" not in "".join(piece.text for piece in shown.pieces if piece.part == "prompt")
    assert np.array(shown.cells).shape == (3, 3) and set(np.array(shown.cells).ravel()) == {0, 1, 2, 3}
    page = preview_page([shown], "three & more")
    assert "three &amp; more" in page and 'class="latent"' in page and page.count("data:image/png") == 2
    assert "&lt;|latent_start|&gt;" in page, "text of the data is not escaped"


def written(folder: Path, **changed: object) -> Path:
    (folder / "ball.png").write_bytes(picture(1))
    (folder / "path.png").write_bytes(picture(2, side=192))
    line = {"question": "Where?", "images": ["ball.png"], "options": ["left", "right"], "answer": "B", "split": "train"}
    file = folder / "mine.jsonl"
    file.write_text(json.dumps({**line, "auxiliary_image": "path.png", **changed}) + "\n")
    return file


def test_the_commands_check_and_show_a_file_of_ones_own(tmp_path: Path) -> None:
    file, page = written(tmp_path), tmp_path / "page.html"

    checked = CliRunner().invoke(app, ["data", "check", str(file)])
    assert checked.exit_code == 0 and "good. 1 problems (1 train)" in checked.output.replace("\n", " ")
    shown = CliRunner().invoke(app, ["data", "preview", str(file), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "none yet" in shown.output.replace("\n", " ") and "boxed{B}" in shown.output
    assert page.read_text().count("<article>") == 1


def test_a_check_that_fails_says_every_fault(tmp_path: Path) -> None:
    checked = CliRunner().invoke(app, ["data", "check", str(written(tmp_path, answer="up", colour=1))])

    assert isinstance(checked.exception, DataError)
    assert "2 faults" in str(checked.exception) and "line 1: unknown key 'colour'" in str(checked.exception)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "Is this it?<|im_end|>"}, "contains the special token <|im_end|>"),
        ({"options": ["a <image> of it", "none"], "answer": "none"}, "2 times <image>"),
        ({"text_before": "So <|latent_pad|>", "text_after": "\\boxed{B}"}, "contains the special token"),
        ({"images": ["long.png"], "auxiliary_image": "long.png"}, "aspect ratio"),
        ({"text_before": "a", "text_after": "\\boxed{B}"}, "its own chain would be left out: "),
        ({"text_before": "<think>a</think>", "text_after": "<think>b</think>\\boxed{Z}"}, "would be left out: "),
    ],
)
def test_what_training_refuses_the_check_refuses_too(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    Image.new("RGB", (4, 4000)).save(tmp_path / "long.png")

    checked = CliRunner().invoke(app, ["data", "check", str(written(tmp_path, **changed))])

    assert isinstance(checked.exception, DataError), checked.output
    assert "line 1: " in str(checked.exception) and message in str(checked.exception)


def test_the_check_says_how_unusual_images_are_read(tmp_path: Path) -> None:
    Image.new("RGBA", (56, 56), (255, 0, 0, 0)).save(tmp_path / "clear.png")

    checked = CliRunner().invoke(app, ["data", "check", str(written(tmp_path, images=["clear.png"]))])

    assert "1 image: its transparent pixels are drawn over white" in checked.output


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))

    checked = CliRunner().invoke(app, ["data", "check", str(file)])

    assert checked.exit_code == 0, checked.exception
