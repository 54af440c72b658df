"""Examples made ready once: the same as made anew, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_core.latent.examples import EncodedExample
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_examples
from mirage_core.training.data import feature_cache as prepared
from mirage_core.training.data.feature_cache import Encode, EncodedOnDemand, Prepared, Source, prepare
from mirage_core.training.sft.train import encoding, load_trainable
from mirage_core.types import ProgressEvent
from tests.training.small_world import make_job, quiet, small_settings


@pytest.fixture(scope="module")
def model(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_trainable(make_job(inputs, tmp_path_factory.mktemp("work"), "grounding"), 0, 1)


@pytest.fixture(scope="module")
def encode(inputs: Path, model: LoadedModel) -> Encode:
    return encoding("grounding", small_settings(), model, load_examples(inputs / "examples", split="train"))


def in_two_processes(encode: Encode, model: LoadedModel, folder: Path) -> Source:
    """Prepare the parts of both processes, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "Prepared", lambda files: files)
        for rank in (0, 1):
            files = prepare(range(7), encode, model.backbone, folder, rank, 2, quiet)
    return Prepared(files)  # type: ignore[arg-type]


def assert_equal(found: EncodedExample, expected: EncodedExample, model: LoadedModel) -> None:
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.labels, expected.labels)
    assert torch.equal(found.grid_thw, expected.grid_thw)
    assert torch.equal(found.auxiliary_grid_thw, expected.auxiliary_grid_thw)
    for features, pixels, grid in (
        (found.image_features, expected.pixel_values, expected.grid_thw),
        (found.auxiliary_features, expected.auxiliary_pixel_values, expected.auxiliary_grid_thw),
    ):
        anew = model.backbone.image_features(pixels, grid)
        assert len(features) == len(anew)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(features, anew, strict=True))


def test_prepared_examples_are_those_encoded_anew(encode: Encode, model: LoadedModel, tmp_path: Path) -> None:
    source = in_two_processes(encode, model, tmp_path / "prepared")
    for index in range(7):
        assert_equal(source.get(index), encode(index), model)


def test_the_patches_that_targets_are_made_of_come_along(inputs: Path, model: LoadedModel, tmp_path: Path) -> None:
    settings = small_settings(latent={"compression": "changed"})
    encode = encoding("grounding", settings, model, load_examples(inputs / "examples", split="train"))
    source = in_two_processes(encode, model, tmp_path / "prepared")
    for index in range(7):
        (found,), (expected,) = source.get(index).auxiliary_kept, encode(index).auxiliary_kept
        assert torch.equal(found, expected) and 0 < int(found.sum()) < len(found)


def test_features_beyond_the_limit_are_not_kept_and_it_says_so(
    encode: Encode, model: LoadedModel, tmp_path: Path
) -> None:
    said: list[ProgressEvent] = []
    source = prepare(range(7), encode, model.backbone, tmp_path / "prepared", 0, 1, said.append, limit_bytes=1000)
    assert "encoded at every step" in said[-1].message
    assert isinstance(source, EncodedOnDemand)
    assert len(source.get(0).pixel_values) > 0
