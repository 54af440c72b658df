"""Explicit visual tokens: the codes of pictures and films, training to write them, saved models, and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import ProgramName
from mirage_core.errors import DataError, SettingsError
from mirage_core.generation.decode import DecodeSettings
from mirage_core.generation.generator import Generator
from mirage_core.image_files import read_rgb
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.visual_codes import CODES, codes_of, with_codes
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.pipeline.stage import StageContext
from mirage_core.pipeline.stages.visual_codes import run_visual_codes
from mirage_core.planning.batch_shapes import Shape
from mirage_core.reports.trajectories import Piece, drawn_codes, pieces, sample
from mirage_core.store import Store
from mirage_core.store.records import load_examples, save_examples
from mirage_core.store.tables import read_table
from mirage_core.training.data.visual_tokens.code_sheet import TILE, CodeSheet
from mirage_core.training.data.visual_tokens.pictures import PictureReader
from mirage_core.training.data.visual_tokens.quantise import CODEBOOK_FILE, Quantiser, load_codebook, nearest_patches
from mirage_core.training.sft.examples import example_encoder
from mirage_core.training.sft.losses import text_loss
from mirage_core.training.sft.train import load_trainable, run_supervised
from mirage_core.types import TrainingExample
from tests.training.small_world import make_job, quiet, small_settings
from tests.training.test_latent_input_training import stock_text_loss

SIZE = 8
CODES_OF = {"codebook_size": SIZE, "codebook_examples": 9}
STAGE = {**CODES_OF, "steps": 8, "batch_size": 6, "learning_rate": 2.0e-3, "warmup_steps": 2}
KINDS = ("picture", "film")
EVERY = pytest.mark.parametrize("kind", KINDS)


def quantised(inputs: Path, folder: Path, kind: str, seed: int = 7, **sections: Any) -> dict[str, Any]:
    """Run the data stage on the small world's examples, with or without their film; return its summary."""
    examples = load_examples(inputs / "examples")
    if kind == "picture":
        examples = [replace(each, auxiliary_image=replace(each.auxiliary_image, frames=())) for each in examples]
    (folder / "plain").mkdir(parents=True)
    save_examples(folder / "plain" / "examples.parquet", examples, film=kind == "film")
    (folder / "examples").mkdir()
    settings = small_settings(**{"visual_tokens": STAGE, **sections})
    context = StageContext(
        settings=settings.model_copy(update={"seed": seed}), params={}, inputs={},
        input_paths={"examples": folder / "plain", "model": inputs / "model"}, output=folder / "examples",
        scratch=folder, store=Store.open(folder / "store", cache=folder / "cache"), fingerprint="", progress=quiet,
    )  # fmt: skip
    summary = run_visual_codes(context)
    for name in ("model", "problems"):
        (folder / name).symlink_to(inputs / name)
    return summary


@pytest.fixture(scope="module")
def worlds(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders named model, examples (with codes) and problems, of pictures and of films."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        summary = quantised(inputs, folder, kind)
        assert summary["codes"] == SIZE and 1 < summary["codes_used"] <= SIZE
    return folders


def trained(
    world: Path, work: Path, program: ProgramName = "visual-tokens", resume: Path | None = None, **sections: Any
) -> Path:
    job = make_job(world, work, program, resume_from=resume, **{"visual_tokens": STAGE, **sections})
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    return job.output


@pytest.fixture(scope="module")
def model(worlds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, with checkpoints beside it."""
    return trained(worlds["picture"], tmp_path_factory.mktemp("model") / "work")


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


def whole_image(model: LoadedModel, encoder: Encoder, data: bytes) -> Any:
    """All merged features of an image [rows, columns, D], in float64."""
    pixels, grids = encoder.pixels((data,), "an image")
    with torch.no_grad():
        features = model.backbone.image_features(pixels, grids)[0]
    rows, columns = (int(side) // 2 for side in grids[0, 1:])
    return features.double().numpy().reshape(rows, columns, -1)


def blocks(image: Image.Image, rows: int, columns: int) -> Any:
    """The pixels of each token [rows, columns, pixels]; images of this world split evenly."""
    pixels = np.asarray(image).reshape(rows, image.height // rows, columns, image.width // columns, 3)
    return pixels.swapaxes(1, 2).reshape(rows, columns, -1)


def pooled_anew(kind: str, model: LoadedModel, encoder: Encoder, example: TrainingExample) -> list[Any]:
    """What is quantised of an example with two codes, written down once more."""
    if kind == "picture":
        features = whole_image(model, encoder, example.auxiliary_image.image)
        flat = features.reshape(-1, features.shape[-1])
        first = -(-len(flat) // 2)
        return [flat[:first].mean(0), flat[first:].mean(0)]
    image = read_rgb(example.problem.images[0], "image")
    rows, columns = encoder.token_grid(example.problem.images[0], "image")
    own, means = blocks(image, rows, columns), []
    before = own
    for data in example.auxiliary_image.frames:
        now = blocks(read_rgb(data, "frame"), rows, columns)
        changed = (now != before).any(-1) & (now != own).any(-1)  # an arrow is always something new
        assert changed.any()
        means.append(whole_image(model, encoder, data)[changed].mean(0))
        before = now
    return [means[0], means[min(1, len(means) - 1)]]


@EVERY
def test_codes_are_the_centres_nearest_to_the_pooled_features(inputs: Path, worlds: dict[str, Path], kind: str) -> None:
    model = load_model(inputs / "model")
    encoder = PictureReader.of(model, small_settings()).encoder
    book = load_file(worlds[kind] / "examples" / CODEBOOK_FILE)
    centres = (book["centre"] + book["codes"]).double().numpy()
    films = {each.problem.id: each for each in load_examples(inputs / "examples")}
    coded = load_examples(worlds[kind] / "examples")
    assert len(coded) == len(films) == 16 and not any(each.auxiliary_image.frames for each in coded)
    seen = set()
    for each in coded:
        pooled = pooled_anew(kind, model, encoder, films[each.problem.id])
        distances = np.array([[((vector - centre) ** 2).sum() for centre in centres] for vector in pooled])
        assert list(codes_of(each.auxiliary_image)) == distances.argmin(1).tolist()
        seen |= set(codes_of(each.auxiliary_image))
    assert len(seen) > 3


@EVERY
def test_a_codebook_that_was_saved_gives_the_same_codes_each_example_by_itself(
    inputs: Path, worlds: dict[str, Path], kind: str
) -> None:
    reader = PictureReader.of(load_model(inputs / "model"), small_settings())
    book = load_codebook(worlds[kind] / "examples")
    plain, coded = load_examples(worlds[kind] / "plain"), load_examples(worlds[kind] / "examples")
    for before, after in list(zip(plain, coded, strict=True))[::5]:
        (again,) = Quantiser(reader, book).quantised([before], quiet)
        assert again == after
        assert json.loads(json.dumps(after.auxiliary_image.details))[CODES] == list(codes_of(again.auxiliary_image))


def test_the_same_examples_give_the_same_bytes_and_another_seed_another_codebook(
    inputs: Path, worlds: dict[str, Path], tmp_path: Path
) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (folder / "examples").iterdir()}

    quantised(inputs, tmp_path / "again", "picture")
    quantised(inputs, tmp_path / "other", "picture", seed=8)
    first, again, other = files(worlds["picture"]), files(tmp_path / "again"), files(tmp_path / "other")
    assert {name for name in first if first[name] != again[name]} == set()
    assert first[CODEBOOK_FILE] != other[CODEBOOK_FILE]


def test_the_codes_keep_the_share_of_the_variance_that_the_summary_tells(inputs: Path, tmp_path: Path) -> None:
    reader = PictureReader.of(load_model(inputs / "model"), small_settings())
    found = {}
    for of in ("pooled", "patches"):
        summary = quantised(inputs, tmp_path / of, "picture", visual_tokens={**CODES_OF, "codebook_of": of})
        book = load_codebook(tmp_path / of / "examples")
        pooled = torch.cat([reader.read(each).pooled for each in load_examples(tmp_path / of / "plain")]).double()
        codes = [code for each in load_examples(tmp_path / of / "examples") for code in codes_of(each.auxiliary_image)]
        errors = (pooled - (book.centre + book.codes[codes])).square().sum()
        found[of] = float(1 - errors / (pooled - pooled.mean(0)).square().sum())
        assert summary["explained"] == pytest.approx(found[of], abs=1e-3)
    assert found["pooled"] > found["patches"]  # the default quantises with the smaller error


@EVERY
def test_an_example_has_as_many_codes_as_it_would_have_latents(
    inputs: Path, worlds: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    latent = {"num_latents": 2, "length": "frames", "end": "free"}
    film = {"auxiliary_images": {"film": "forward"}, "latent": latent}
    sections: dict[str, Any] = film if kind == "film" else {}
    world = worlds[kind]
    if sections:
        quantised(inputs, world := tmp_path, kind, **sections)
    job = make_job(world, tmp_path / "work", "visual-tokens", visual_tokens=STAGE, **sections)
    model, examples = load_trainable(job), load_examples(world / "examples", "train")
    written = example_encoder("visual-tokens", job.settings, model, examples)
    fed = example_encoder("relaxation", job.settings, model, examples, with_targets=False)
    lengths = set()
    for index in range(len(examples)):
        codes, latents = written(index), fed(index)
        assert len(codes.ids) == len(latents.ids)
        is_code = torch.isin(codes.ids, torch.tensor(model.ids.visual_codes))
        assert torch.equal(is_code, latents.ids == model.ids.latent_pad)
        assert torch.equal(codes.labels[is_code], codes.ids[is_code])  # they are learned as any word
        borders = torch.isin(codes.ids, torch.tensor(model.ids.visual_borders))
        assert torch.equal(
            borders, torch.isin(latents.ids, torch.tensor([model.ids.latent_start, model.ids.latent_end]))
        )
        lengths.add(int(is_code.sum()))
    assert lengths == ({2} if kind == "picture" else {int(each.auxiliary_image.details["frames"]) for each in examples})


def test_the_plan_counts_k_codes_and_their_borders(worlds: dict[str, Path]) -> None:
    shape = Shape(prompt=20, image=9, before=0, after=5, caption=7, auxiliary=9, num_latents=3)
    codes, text = (shape.batch(name, 4, padded=False) for name in ("visual-tokens", "direct-sft"))
    assert codes.passes == (text.passes[0] + 3 + 2,) and codes.labels == text.labels + 3 + 2
    assert codes.image_features == text.image_features  # the auxiliary image is not read in training


def test_the_loss_is_cross_entropy_on_codes_as_on_text_and_a_batch_gives_its_rows(
    worlds: dict[str, Path], tmp_path: Path
) -> None:
    job = make_job(worlds["picture"], tmp_path, "visual-tokens", visual_tokens=STAGE)
    model, examples = load_trainable(job), load_examples(worlds["picture"] / "examples", "train")
    encode = example_encoder("visual-tokens", job.settings, model, examples)
    table = model.backbone.model.get_input_embeddings().weight

    def loss_of(indices: list[int], checkpointing: bool = False) -> tuple[Any, Any, float]:
        rows = [encode(index) for index in indices]
        batch = collate(rows, model.ids, model.backbone.position_ids, align=False)
        loss = text_loss(model.backbone, batch, checkpointing=checkpointing).total
        (gradient,) = torch.autograd.grad(loss, table)
        return loss.detach(), gradient, float((batch.labels != -100).sum())

    indices = [0, 3, 8, 13]
    loss, gradient, count = loss_of(indices)
    singles = [loss_of([index]) for index in indices]
    torch.testing.assert_close(loss, sum(each[0] * each[2] for each in singles) / count, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, sum(each[1] * each[2] for each in singles) / count, atol=5e-5, rtol=0)
    again, recomputed, _ = loss_of(indices, checkpointing=True)
    torch.testing.assert_close(again, loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(recomputed, gradient, atol=5e-5, rtol=0)
    batch = collate([encode(index) for index in indices], model.ids, model.backbone.position_ids, align=False)
    features = tuple(model.backbone.image_features(batch.pixel_values, batch.grid_thw))
    with torch.no_grad():
        expected = stock_text_loss(model, replace(batch, image_features=features), torch.empty(0, 64))
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=0)
    used = {code for index in indices for code in codes_of(examples[index].auxiliary_image)}
    touched = set(gradient[list(model.ids.visual_codes)].abs().sum(-1).nonzero()[:, 0].tolist())
    assert touched == used


def test_a_resumed_run_goes_as_one_undisturbed(worlds: dict[str, Path], model: Path, tmp_path: Path) -> None:
    middle = model.parent / "scratch" / "checkpoints" / "step-00000003"
    resumed = trained(worlds["picture"], tmp_path, resume=middle)
    for figure in ("loss", "text", "gradient_norm"):
        assert curve(resumed, figure) == curve(model, figure), figure
    whole, parts = (load_file(output / "model.safetensors") for output in (model, resumed))
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    halves = {**STAGE, "micro_batch_size": 2, "gradient_checkpointing": True}
    split = trained(worlds["picture"], tmp_path / "split", visual_tokens=halves)
    assert curve(split, "loss") == pytest.approx(curve(model, "loss"), rel=1e-4)


def test_the_tokens_are_trained_and_saved_with_the_model_and_its_codebook(
    worlds: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    job = make_job(worlds["picture"], tmp_path, "visual-tokens", visual_tokens=STAGE)
    before, after = load_trainable(job), load_model(model)
    assert len(after.ids.visual_codes) == SIZE and len(after.ids.visual_borders) == 2
    assert after.ids == before.ids and after.backbone.vocab_size == before.backbone.vocab_size == 512 + SIZE + 2
    new = [*after.ids.visual_borders, *after.ids.visual_codes]
    first, last = (each.backbone.model.get_input_embeddings().weight[new] for each in (before, after))
    assert float(torch.pdist(first.detach()).min()) > 0.5  # different from the first step on
    assert ((first - last).abs().amax(-1) > 1e-4).any()
    word = after.processor.tokenizer.convert_tokens_to_ids("<|visual_5|>")
    assert word == after.ids.visual_codes[5]
    stored, kept = load_codebook(worlds["picture"] / "examples"), load_codebook(model)
    assert torch.equal(stored.codes, kept.codes) and CodeSheet.load(model) is not None
    about = json.loads((model / "mirage.json").read_text())
    assert about["stages"] == ["base", "visual-tokens"] and "latent" not in about


def test_adapters_train_the_rows_of_visual_tokens_too(worlds: dict[str, Path], tmp_path: Path) -> None:
    lora = {"model": {"lora": {"rank": 2}}}
    output = trained(worlds["picture"], tmp_path / "work", visual_tokens={**STAGE, "steps": 3}, **lora)
    job = make_job(worlds["picture"], tmp_path / "none", "visual-tokens", visual_tokens=STAGE)
    before, after = load_trainable(job), load_model(output)
    outputs = [each.backbone.model.get_output_embeddings().weight for each in (before, after)]
    changed = set((outputs[0] - outputs[1]).abs().sum(-1).nonzero()[:, 0].tolist())
    ids = after.ids
    visual = {*ids.visual_codes, *ids.visual_borders}
    assert visual <= changed <= {*visual, ids.latent_start, ids.latent_pad, ids.latent_end}


def test_a_trained_model_writes_the_codes_of_its_training_pictures_then_the_answer(
    worlds: dict[str, Path], tmp_path: Path
) -> None:
    section = {**STAGE, "steps": 240, "batch_size": 14, "learning_rate": 3.0e-3}
    world = worlds["picture"]
    output = trained(world, tmp_path / "work", visual_tokens=section)
    loaded, examples = load_model(output), load_examples(world / "examples", "train")
    answering = Generator.for_evaluation(loaded, small_settings(), method="visual-tokens", latents="off")
    scored = answering.scored([each.problem for each in examples])
    sheet = CodeSheet.load(output)
    assert sheet is not None
    right = 0
    for example, (prediction, score) in zip(examples, scored, strict=True):
        codes = codes_of(example.auxiliary_image)
        found = [piece.codes for piece in pieces(prediction.output) if piece.codes]
        right += found == [codes]
        assert not prediction.spans and prediction.finished
        shown = sample(example.problem, (prediction, score), None, sheet)
        written = [code for piece in found for code in piece]
        assert (shown.codes is None) == (not written) and (not written or shown.codes.width == TILE * len(written))
    assert right >= 12 and len({codes_of(each.auxiliary_image) for each in examples}) > 4
    assert sum(score.correct for _, score in scored) >= 12
    text = scored[0][0].output
    again = loaded.processor.tokenizer(text, add_special_tokens=False).input_ids
    assert tuple(again) == scored[0][0].token_ids[: len(again)]  # a chain in words can be fed back (text-chain)


def test_borders_that_are_never_closed_do_no_harm(worlds: dict[str, Path], model: Path) -> None:
    loaded, (problem,) = load_model(model), [load_examples(worlds["picture"] / "examples", "train")[0].problem]
    settings = small_settings()
    answering = Generator.for_evaluation(loaded, settings, method="visual-tokens", latents="off")
    allowed = {loaded.ids.visual_borders[0], *loaded.ids.visual_codes}
    banned = tuple(set(range(loaded.backbone.vocab_size)) - allowed)
    answering.decoding = DecodeSettings(max_new_tokens=9, num_latents=2, latents="off", banned=banned)
    ((prediction, score),) = answering.scored([problem])
    assert not prediction.finished and len(prediction.token_ids) == 9 and score.parsed is None and not score.correct
    (piece,) = pieces(prediction.output)
    assert len(piece.codes) == sum(token in loaded.ids.visual_codes for token in prediction.token_ids)


def test_an_output_lists_its_codes_and_a_sheet_draws_them() -> None:
    text = "<|visual_start|><|visual_3|><|visual_17|><|visual_end|>so <latents:2>\\boxed{R}<|visual_start|>"
    assert pieces(text) == (
        Piece("[codes 3 17]", codes=(3, 17)), Piece("so "), Piece("", 2), Piece("\\boxed{R}"), Piece("[no codes]"),
    )  # fmt: skip
    colours = [(code, 255 - code, 7 * code % 256) for code in range(20)]
    sheet = CodeSheet.of([Image.new("RGB", (5, 9), colour) for colour in colours])
    drawn = drawn_codes(text + "<|visual_999|>", sheet, scale=2)
    assert drawn.size == (6 * TILE, 2 * TILE)
    assert [drawn.getpixel((at * 2 * TILE + 30, 11)) for at in range(3)] == [colours[3], colours[17], (160, 160, 160)]
    assert drawn_codes("\\boxed{R}", sheet) is None and drawn_codes(text, None) is None


@EVERY
def test_the_sheet_has_the_patch_nearest_to_each_code(inputs: Path, worlds: dict[str, Path], kind: str) -> None:
    reader = PictureReader.of(load_model(inputs / "model"), small_settings())
    book, sheet = load_codebook(worlds[kind] / "examples"), CodeSheet.load(worlds[kind] / "examples")
    assert sheet is not None
    patches, tiles = [], []
    for example in load_examples(worlds[kind] / "plain", "train")[:9]:
        seen = reader.read(example)
        patches.append(seen.patches)
        pictures = example.auxiliary_image.frames or (example.auxiliary_image.image,)
        for picture, token in seen.places.tolist():
            image = read_rgb(pictures[picture], "picture")
            row, column = divmod(token, image.width // 64)  # a cell has 64 pixels and one token
            tiles.append(image.crop((64 * column, 64 * row, 64 * column + 64, 64 * row + 64)))
    distances = (torch.cat(patches)[None] - (book.centre + book.codes)[:, None]).square().sum(-1)
    assert len(tiles) == distances.shape[1]
    for code in range(SIZE):
        expected = CodeSheet.of([tiles[int(distances[code].argmin())]]).strip([0])
        assert sheet.strip([code]).tobytes() == expected.tobytes()
    assert nearest_patches(book, torch.cat(patches)) == distances.argmin(1).tolist()


def test_what_does_not_fit_together_is_refused(
    inputs: Path, worlds: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="trained on the examples of the stage visual-codes"):
        trained(inputs, tmp_path / "plain")
    with pytest.raises(SettingsError, match=r"a codebook of 8, and visual_tokens.codebook_size is 9: set it to 8"):
        trained(worlds["picture"], tmp_path / "size", visual_tokens={**STAGE, "codebook_size": 9})
    with pytest.raises(SettingsError, match="the model has 0 visual tokens: train on such examples by the stage"):
        trained(worlds["picture"], tmp_path / "text", "text")
    with pytest.raises(DataError, match=r"lower visual_tokens\.codebook_size, or train on more examples"):
        quantised(inputs, tmp_path / "many", "picture", visual_tokens={**CODES_OF, "codebook_size": 900})
    loaded, examples = load_model(model), load_examples(worlds["picture"] / "examples", "train")
    encode = example_encoder("visual-tokens", small_settings(), loaded, [with_codes(examples[0], [1, SIZE])])
    with pytest.raises(SettingsError, match=r"holds the codes \[1, 8\], and the model has 8 visual tokens"):
        encode(0)
    forged = replace(examples[0], chain=replace(examples[0].chain, text_before="<|visual_1|>"))
    with pytest.raises(DataError, match=r"contains the special token <\|visual_1\|>"):
        example_encoder("visual-tokens", small_settings(), loaded, [forged])(0)
