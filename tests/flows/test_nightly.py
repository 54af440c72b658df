"""The nightly evaluation: what a pointer names is judged, compared with the night before, and a drop is loud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments import automations
from flows.cli import app
from mirage_core.errors import ArtifactMissing, SignificantDrop
from mirage_core.pipeline.trend import TrendPoint, load_points
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.nights import PLANNING, REASONING, Nights

NOTIFICATION = "mirage: a failed night is told"
pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nights:
    """A store of this test's own in which every evaluation is found."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    return Nights(open_store())


def night(alpha: float = 0.05) -> dict[str, Any]:
    from flows.nightly import mirage_evaluation

    return mirage_evaluation(alpha=alpha)


def points() -> list[TrendPoint]:
    return load_points(open_store(), "nightly")


def point_at(model: Any) -> None:
    done = CliRunner().invoke(app, ["store", "point", "nightly", model.path])
    assert done.exit_code == 0, done.output


def newest_artifacts(*keys: str) -> dict[str, str]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        body = {"artifacts": {"key": {"any_": list(keys)}}, "sort": "UPDATED_DESC", "limit": 50}
        listed = client._client.post("/artifacts/filter", json=body).json()
    return {artifact["key"]: artifact["data"] for artifact in reversed(listed)}


def test_without_a_pointer_a_night_fails_and_says_how_to_set_one(nights: Nights) -> None:
    nights.model("a", 30, 30)

    with pytest.raises(ArtifactMissing, match=r"mirage run --publish-as nightly.*mirage store point nightly"):
        night()
    assert points() == []


def test_a_night_judges_what_the_pointer_names_and_not_the_newest_model(nights: Nights) -> None:
    older = nights.model("older", 30, 30)
    nights.model("newer", 40, 40)
    point_at(older)
    result = night()

    assert result["model"]["digest"] == older.digest
    assert result["method"] == "stage-2"
    assert result["comparison"]["outcome"] == "first night"
    assert {row["benchmark"]: row["accuracy"] for row in result["scores"] if row["level"] == "all"} == {
        PLANNING: 0.75,
        REASONING: 0.75,
    }


def test_a_significant_drop_fails_the_night_after_everything_is_written(nights: Nights) -> None:
    good, bad = nights.model("good", 36, 30), nights.model("bad", 18, 30)
    point_at(good)
    night()
    point_at(bad)
    with pytest.raises(SignificantDrop) as raised:
        night()

    message = str(raised.value)
    assert good.digest in message and bad.digest in message
    assert "vsp-planning 90.0% -> 45.0% (-45.0 points" in message
    assert "right then wrong 18, wrong then right 0" in message
    assert f"mirage store point nightly {good.path}" in message
    last = points()[-1]
    assert [change.benchmark for change in last.comparison.drops] == ["vsp-planning", "all"]
    shown = newest_artifacts("nightly-comparison", "nightly-trend", "nightly-scores")
    assert "| vsp-planning | 40 | 90.0% | 45.0% | -45.0 |" in shown["nightly-comparison"]
    assert "**drop**" in shown["nightly-comparison"]
    assert "![accuracy over the nights](data:image/png;base64," in shown["nightly-trend"]
    page = (Path(open_store().url) / "trend/nightly/trend.html").read_text()
    assert "A significant drop on VSP spatial planning" in page


def test_a_night_that_is_tried_again_is_compared_with_the_night_before_and_not_with_itself(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.nightly

    point_at(nights.model("good", 36, 30))
    night()
    point_at(nights.model("bad", 18, 30))
    monkeypatch.setattr(flows.nightly, "night_id", lambda: "one-night")
    for _ in range(2):
        with pytest.raises(SignificantDrop):
            night()

    assert len(points()) == 2


def test_the_flow_publishes_where_it_is_told_to(fake_pipeline: FakePipeline) -> None:
    from flows.full_pipeline import mirage

    short = "evaluation.methods=[stage-1]"
    CliRunner().invoke(app, ["run", "--recipe", "micro", "--set", short, "--direct"])
    assert open_store().pointers() == []
    mirage(recipe="micro", overrides=[short], publish_as="best")  # every stage is Cached
    pointer = open_store().pointer("best")

    assert (pointer.artifact.summary, pointer.about["method"]) == ({"made": "grounding"}, "stage-1")
    assert open_store().pointers() == ["best"]


@pytest.fixture
def block() -> Iterator[str]:
    """A notification block on the server, of a name of its own; what it has let be installed goes with it."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import get_client

    name = "night-watch"
    CustomWebhookNotificationBlock(name="nobody", url="http://127.0.0.1:9/").save(name, overwrite=True)
    yield name
    with get_client(sync_client=True) as client:
        for automation in client._client.post("/automations/filter", json={}).json():
            if automation["name"] == NOTIFICATION:
                client._client.delete(f"/automations/{automation['id']}")


def installed(monkeypatch: pytest.MonkeyPatch, block: str) -> tuple[list[str], str]:
    """What an installation that notifies ``block`` leaves on the server, and what it says of it."""
    from prefect.settings import PREFECT_API_URL

    message: list[str] = []
    monkeypatch.setenv("MIRAGE_NOTIFY", block)
    names = automations.install(str(PREFECT_API_URL.value()), message.append)
    return names, next(line for line in message if NOTIFICATION in line)


def test_without_a_block_to_notify_nothing_is_installed_and_the_way_out_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, message = installed(monkeypatch, "no-such-block")

    assert NOTIFICATION not in names
    assert "no notification block named 'no-such-block'" in message
    assert "MIRAGE_NOTIFY=NAME; then: mirage deploy" in message


def test_with_a_block_the_notification_is_installed_once(monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    from prefect.client.orchestration import get_client

    assert installed(monkeypatch, block)[1].endswith("created")
    names, message = installed(monkeypatch, block)

    assert NOTIFICATION in names
    assert message.endswith("up to date")
    with get_client(sync_client=True) as client:
        body = {"automations": {"name": {"any_": [NOTIFICATION]}}}
        (there,) = client._client.post("/automations/filter", json=body).json()
        document = client.read_block_document_by_name(block, "custom-webhook")
    assert [action["block_document_id"] for action in there["actions"]] == [str(document.id)]
