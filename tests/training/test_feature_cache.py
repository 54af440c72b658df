"""Examples made ready once: the same as made anew, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_examples
from mirage_core.training.data import feature_cache
from mirage_core.training.data.feature_cache import (
    Encode,
    ExampleSource,
    FeatureCache,
    OnDemandSource,
    precompute_features,
)
from mirage_core.training.sft.examples import example_encoder
from mirage_core.training.sft.train import load_trainable
from mirage_core.types import ProgressEvent
from tests.training.small_world import make_job, quiet, small_settings


@pytest.fixture(scope="module")
def model(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_trainable(make_job(inputs, tmp_path_factory.mktemp("work"), "grounding"))


@pytest.fixture(scope="module")
def encode(inputs: Path, model: LoadedModel) -> Encode:
    return example_encoder("grounding", small_settings(), model, load_examples(inputs / "examples", split="train"))


def in_two_processes(encode: Encode, model: LoadedModel, folder: Path) -> ExampleSource:
    """Prepare the parts of both processes, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "FeatureCache", lambda files: files)
        for rank in (0, 1):
            with as_process(ProcessContext.on_one_host(rank, 2)):
                files = precompute_features(range(7), encode, model.backbone, folder, quiet)
    return FeatureCache(files)  # type: ignore[arg-type]


def assert_equal(example: EncodedExample, expected: EncodedExample, model: LoadedModel) -> None:
    assert torch.equal(example.ids, expected.ids) and torch.equal(example.labels, expected.labels)
    assert torch.equal(example.grid_thw, expected.grid_thw)
    assert torch.equal(example.auxiliary_grid_thw, expected.auxiliary_grid_thw)
    for features, pixels, grid in (
        (example.image_features, expected.pixel_values, expected.grid_thw),
        (example.auxiliary_features, expected.auxiliary_pixel_values, expected.auxiliary_grid_thw),
    ):
        anew = model.backbone.image_features(pixels, grid)
        assert len(features) == len(anew)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(features, anew, strict=True))


def test_prepared_examples_are_those_encoded_anew(encode: Encode, model: LoadedModel, tmp_path: Path) -> None:
    source = in_two_processes(encode, model, tmp_path / "prepared")
    for index in range(7):
        assert_equal(source.get(index), encode(index), model)


def test_the_patches_that_targets_are_made_of_come_along(inputs: Path, model: LoadedModel, tmp_path: Path) -> None:
    settings = small_settings(latent={"compression": "changed_patches"})
    encode = example_encoder("grounding", settings, model, load_examples(inputs / "examples", split="train"))
    source = in_two_processes(encode, model, tmp_path / "prepared")
    for index in range(7):
        (example,), (expected,) = source.get(index).auxiliary_patch_masks, encode(index).auxiliary_patch_masks
        assert torch.equal(example, expected) and 0 < int(example.sum()) < len(example)


def test_features_beyond_the_limit_are_not_kept_and_it_says_so(
    encode: Encode, model: LoadedModel, tmp_path: Path
) -> None:
    events: list[ProgressEvent] = []
    source = precompute_features(
        range(7), encode, model.backbone, tmp_path / "prepared", events.append, limit_bytes=1000
    )
    assert "encoded at every step" in events[-1].message
    assert isinstance(source, OnDemandSource)
    assert len(source.get(0).pixel_values) > 0
