"""What the UI's form of a deployment tells a stranger: every parameter is explained, and choices are lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirage_core.config import EvaluationSettings
from mirage_core.pipeline.registry import STAGES
from mirage_core.recipes import names

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
ENTRYPOINTS = {entry["entrypoint"] for entry in DEPLOYMENTS}
DEPLOYED = {entry["name"] for entry in DEPLOYMENTS if "single_stage" in entry["entrypoint"]}
INPUTS = ("problems", "auxiliary_images", "examples", "model", "states")


def form(entrypoint: str) -> dict[str, dict[str, Any]]:
    """The parameters of a flow as ``prefect deploy`` gives them to the server."""
    from prefect.utilities.callables import parameter_schema_from_entrypoint

    return parameter_schema_from_entrypoint(str(ROOT / entrypoint)).properties


@pytest.mark.parametrize("entrypoint", sorted(ENTRYPOINTS))
def test_every_parameter_of_every_deployment_is_explained(entrypoint: str) -> None:
    for name, shown in form(entrypoint).items():
        assert len(shown.get("description", "")) > 30, name


def test_the_form_of_a_stage_offers_the_stages_and_the_methods_as_lists() -> None:
    shown = form("flows/single_stage.py:single_stage")
    judged = EvaluationSettings.model_json_schema()["properties"]["methods"]["items"]["enum"]

    assert shown["stage"]["enum"] == list(STAGES)
    assert shown["method"]["anyOf"][0]["enum"] == judged


def test_the_form_of_a_stage_names_every_recipe() -> None:
    explained = form("flows/single_stage.py:single_stage")["recipe"]["description"]

    assert [recipe for recipe in names() if recipe not in explained] == []


@pytest.mark.parametrize("name", INPUTS)
def test_the_explanation_of_an_input_names_the_stages_that_take_it_and_no_other(name: str) -> None:
    shown = form("flows/single_stage.py:single_stage")[name]
    taken_by = shown["description"].removeprefix("Training examples").partition(":")[0]
    named = set(re.findall(r"[a-z0-9-]+", taken_by)) & set(STAGES)

    assert named == {stage for stage in DEPLOYED if name in (STAGES[stage].inputs or ())}
    assert (shown["type"], shown["default"]) == ("string", ""), "a plain text field: nothing to switch on first"
