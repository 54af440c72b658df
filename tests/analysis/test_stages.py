"""The stages: a clean run and every measure through run_stage, cached, with identities of their own."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.analysis.result_files import RESULTS, read_result
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.model.loading import save_model
from mirage_core.pipeline.stage import StageResult, run_stage
from mirage_core.pipeline.stages.measure import COLLECT, MEASURE, collect_identity, measure_identity
from mirage_core.store import Store
from mirage_core.store.records import save_problems
from mirage_core.types import Artifact
from tests.analysis import toys


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Artifact]]:
    """A store with the deaf toy (without its deafness) and 20 problems, of which 8 are measured."""
    folder = tmp_path_factory.mktemp("analysis")
    store = Store.open(folder / "store")
    loaded = toys.trained("none")
    (folder / "problems").mkdir()
    save_problems(folder / "problems" / "problems.parquet", toys.toy_problems(20))
    save_model(folder / "model", loaded.backbone, loaded.processor, loaded.about)
    names = {"model": "a" * 64, "problems": "b" * 64}
    return store, {
        name: store.publish(name, identified, folder / name, summary={}, about={}) for name, identified in names.items()
    }


def settings(**analysis: Any) -> Settings:
    return toys.toy_settings(**{"instances": 8, "noise_scales": [1.0], "resamples": 20, "shuffles": 3, **analysis})


def taken(made: tuple[Store, dict[str, Artifact]], measure: str, chosen: Settings) -> StageResult:
    store, inputs = made
    collected = run_stage(COLLECT, chosen, inputs, store, toys.quiet)
    return run_stage(
        MEASURE, chosen, {**inputs, "collected": collected.artifact}, store, toys.quiet, {"measure": measure}
    )


@pytest.mark.parametrize("measure", list(RESULTS))
def test_every_measure_is_taken_once_and_read_back(made: tuple[Store, dict[str, Artifact]], measure: str) -> None:
    result = taken(made, measure, settings())
    assert not result.cached and result.artifact.summary["instances"] == 8
    measured = read_result(made[0].fetch(result.artifact), RESULTS[measure])
    assert measured.header.measure == measure and measured.header.instances == 8  # type: ignore[attr-defined]
    assert taken(made, measure, settings()).cached


def test_a_measure_that_is_not_known_is_refused(made: tuple[Store, dict[str, Artifact]]) -> None:
    with pytest.raises(InputError, match="got the measure 'astrology', expected one of similarity"):
        taken(made, "astrology", settings())


def test_how_finely_is_measured_does_not_collect_anew() -> None:
    plain = settings()
    finer = settings(noise_scales=[1.0, 2.0], resamples=30)
    assert collect_identity(plain) == collect_identity(finer)
    assert measure_identity(plain) != measure_identity(finer)
    fewer = settings(measures=["probes"])
    assert measure_identity(plain) == measure_identity(fewer), "which other measures are taken changes none of them"
    assert collect_identity(plain) != collect_identity(settings(instances=9))
