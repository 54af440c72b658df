"""Renamed settings: the old names are read for one release, and fingerprints keep them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

from mirage_core import recipes
from mirage_core.config import (
    InferenceSettings,
    LatentSettings,
    Settings,
    TrainSettings,
    as_recipe,
    identity,
)
from mirage_core.config.renamed import NEW_NAMES, OLD_NAMES, OLD_VALUES
from mirage_core.errors import SettingsError
from mirage_core.recipes.keys import dotted_names
from mirage_core.recipes.renames import _warn_once
from mirage_core.studies.grid import grid
from mirage_core.studies.loading import load_study

OLD = {
    "direct_sft": {"stop_above": 3.0, "batch_by": "chance"},
    "grpo": {"silent_groups": "redraw", "redraws": 2, "group_accuracy": [0.0, 0.5]},
    "latent": {"fed": "blank", "compression": "changed"},
    "report": {"looks": True},
    "runtime": {"grace_s": 7},
}
NEW = {
    "direct_sft": {"max_loss_ratio": 3.0, "batch_by": "random"},
    "grpo": {"zero_variance_groups": "redraw", "max_resamples": 2, "accuracy_filter": [0.0, 0.5]},
    "latent": {"input": "blank", "compression": "changed_patches"},
    "report": {"latent_lens": True},
    "runtime": {"shutdown_grace_s": 7},
}


@pytest.fixture(autouse=True)
def _warns_again() -> None:
    _warn_once.cache_clear()


def written(path: Path, data: object) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def flat(data: dict[str, dict[str, object]]) -> list[str]:
    return [f"{at}.{name}={json.dumps(value)}" for at, values in data.items() for name, value in values.items()]


def test_old_names_in_a_file_and_in_overrides_give_the_same_settings_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = recipes.load("micro", flat(NEW))
    assert not caplog.records
    file = written(tmp_path / "micro.yaml", {"extends": "micro", "recipe": "micro", **OLD})
    for settings in (recipes.load(file), recipes.load(file), recipes.load("micro", flat(OLD))):
        assert settings == current
    message = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(message) == 2 and str(file) in message[0] and "--set" in message[1]
    for text in message:
        assert "grpo.redraws is now grpo.max_resamples" in text
        assert "latent.compression=changed is now latent.compression=changed_patches" in text
        assert "latent.fed is now latent.input" in text


def test_an_old_name_in_a_file_is_overruled_by_the_new_one_in_an_override(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", {"extends": "tiny", "latent": {"fed": "blank"}})
    assert recipes.load(file, ["latent.input=hidden_state"]).latent.input == "hidden_state"
    assert recipes.load(file, ["latent={fed: own}"]).latent.input == "hidden_state"


@pytest.mark.parametrize(
    "overrides",
    [["latent.fed=own", "latent.input=blank"], ["latent={fed: own, input: own}"]],
)
def test_an_old_name_beside_its_new_one_is_refused(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--set, latent: got both fed and input, its new name: keep input"):
        recipes.load("tiny", overrides)
    both = written(tmp_path / "both.yaml", {"extends": "tiny", "latent": {"fed": "own", "input": "blank"}})
    with pytest.raises(SettingsError, match=r"both\.yaml, latent: got both fed and input"):
        recipes.load(both)
    with pytest.raises(ValueError, match="got both fed and input"):
        LatentSettings.model_validate({"fed": "own", "input": "blank"})


def test_fingerprints_and_stored_files_keep_the_old_names_and_people_see_the_new_ones() -> None:
    settings = recipes.load("micro", flat(NEW))
    stored, shown = identity(settings), as_recipe(settings)
    for at in OLD:
        assert {name: stored[at][name] for name in OLD[at]} == OLD[at]
        assert not set(stored[at]) & (set(NEW[at]) - set(OLD[at]))
        assert {name: shown[at][name] for name in NEW[at]} == NEW[at]
    assert json.loads(settings.model_dump_json()) == stored
    assert settings.model_dump(mode="json", include={"grpo"}) == {"grpo": stored["grpo"]}
    assert yaml.safe_load(recipes.dump(settings)) == shown
    plain = TrainSettings()
    assert list(identity(plain)) == [OLD_NAMES.get(name, name) for name in TrainSettings.model_fields]
    assert identity(LatentSettings()) == {
        "num_latents": 4, "compression": "even", "end": "exact", "max_latents": 8, "max_spans": 4, "fed": "own",
        "bottleneck": "none",
    }  # fmt: skip


def test_stored_files_of_an_older_version_are_read_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = recipes.load("micro", flat(NEW))
    assert Settings.model_validate(identity(settings)) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    metadata = {"latent": {"num_latents": 4, "compression": "changed", "fed": "own"}}  # as in an old mirage.json
    used = InferenceSettings.from_metadata(metadata, settings)
    assert (used.latent.input, used.latent.compression) == ("hidden_state", "changed_patches")
    assert used.as_metadata()["latent"]["fed"] == "own"
    assert not caplog.records


def test_studies_take_old_names_in_overrides_and_sweeps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cell = {"name": "blank", "method": "stage-2", "overrides": {"latent.fed": "blank"}}
    sweep = {"sweep": "latent.fed", "values": ["own", "blank"], "method": "stage-2"}
    study = {"recipe": "micro", "baseline": "blank", "overrides": {"grpo.redraws": 2}, "cells": [cell, sweep]}
    file = written(tmp_path / "old.yaml", study)
    runs = grid(load_study(file), ["runtime.grace_s=9"])
    assert [run.cell.name for run in runs] == ["blank", "input-hidden-state", "input-blank"]
    assert [run.settings.latent.input for run in runs] == ["blank", "hidden_state", "blank"]
    assert all("grpo.max_resamples=2" in run.sets and "runtime.shutdown_grace_s=9" in run.sets for run in runs)
    message = [record.getMessage() for record in caplog.records]
    assert (
        len(message) == 2 and "grpo.redraws is now grpo.max_resamples" in message[0] and "latent.fed=own" in message[0]
    )
    study["overrides"] = {"latent.fed": "own", "latent.input": "blank"}
    with pytest.raises(SettingsError, match="both its old and its new name"):
        load_study(written(tmp_path / "both.yaml", study))


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("grpo.silent_group=drop", "grpo.zero_variance_groups"),
        ("latent.redraws=2", "grpo.max_resamples"),
        ("stop_abov=2", "direct_sft.max_loss_ratio"),
    ],
)
def test_a_mistyped_old_name_is_answered_with_the_new_one(override: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=rf"did you mean {hint}"):
        recipes.load("tiny", [override])


def test_a_renamed_setting_has_one_meaning_and_its_old_name_is_free() -> None:
    names = [name.rpartition(".")[2] for name in dotted_names(Settings)]
    assert not set(names) & set(NEW_NAMES)
    assert {name for name in OLD_NAMES if names.count(name) > 1} == {"max_loss_ratio"}, "one for each training stage"
    assert set(OLD_VALUES) <= set(names) and set(OLD_NAMES) <= set(names)


def test_an_attention_that_no_backbone_can_use_is_refused_by_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"model\.attention: got 'flash_attention_2', .*'sdpa' or 'eager'"):
        recipes.load("tiny", ["model.attention=flash_attention_2"])
