"""A trained model for others: exported, pushed to a hub, and asked a question, with no flags."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.answer import default_benchmark, parse_words
from flows.commands.export import format_bytes
from flows.trained import NO_TEACHER, find_checkpoint
from mirage_core.errors import InputError
from mirage_core.model.loading import load_model
from mirage_core.store import Store
from mirage_core.types import Artifact
from mirage_core.worlds.maze import maze_from_rows
from mirage_core.worlds.maze.art import picture_bytes, render
from tests.flows.fake_hub import TOKEN, running_hub
from tests.training.small_world import make_inputs, make_job, small_settings
from tests.training.test_loop import run_here

ROOT = Path(__file__).parents[2]
ROW = {
    "benchmark": "vsp-planning",
    "method": "stage-2",
    "level": "3",
    "accuracy": 0.625,
    "interval": [0.5, 0.75],
    "n": 80,
    "unparsed": 2,
    "latent_share": 1.0,
    "rule": "optimal",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder fresh from training by adapters, for three steps."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "inputs").mkdir()
    make_inputs(folder / "inputs")
    job = make_job(
        folder / "inputs",
        folder / "work",
        "relaxation",
        model={"lora": {"rank": 4}},
        relaxation={"steps": 3},
        evaluation={"max_new_tokens": 5},
    )
    run_here(job)
    return folder / "work" / "output"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A map in the benchmark's art."""
    path = tmp_path / "map.png"
    path.write_bytes(picture_bytes(render(maze_from_rows([[1, 0, 0], [-1, -1, 0], [0, 2, 0]]))))
    return path


@pytest.fixture
def stored(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """The model in a store of this test's own, evaluated twice; another model's evaluation is newer."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    store = Store.open(tmp_path / "store")
    settings = small_settings(evaluation={"max_new_tokens": 5}).model_dump(mode="json")
    model = store.publish("model", "a" * 64, trained, summary={}, about={"stage": "relaxation", "settings": settings})
    (tmp_path / "answers").mkdir()
    for number, (digest, accuracy) in enumerate(((model.digest, 0.1), (model.digest, 0.625), ("0" * 64, 0.9))):
        (tmp_path / "answers" / "metrics.json").write_text(str(number))
        store.publish(
            "evaluation",
            str(number) * 64,
            tmp_path / "answers",
            summary={"method": "stage-2", "scores": [{**ROW, "accuracy": accuracy}]},
            about={"inputs": {"model": {"digest": digest}}},
        )
    return model


def mirage(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def front_matter(card: str) -> dict[str, object]:
    result: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return result


def test_a_fresh_folder_answers_with_no_flags(trained: Path, picture: Path) -> None:
    output = mirage("answer", str(trained), str(picture))
    # Its history tells that the relaxation began with the base.
    assert f"model   {trained}" in output and "(without-stage-1)" in output and "verdict" in output
    assert "truncated: the maximum number of tokens" in output or len(output.partition("answer  ")[2].split()[0]) <= 5


def test_an_answer_shows_the_film_that_its_latents_imagine(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    (tmp_path / "inputs").mkdir()
    make_inputs(tmp_path / "inputs")
    film = {"steps": 40, "batch_size": 6, "learning_rate": 4e-3, "stepwise": {"where": "cell", "what": "kind"}}
    drawn = {"film": "forward"}
    job = make_job(tmp_path / "inputs", tmp_path / "work", "film", film=film, auxiliary_images=drawn)
    run_here(job)
    output = mirage("answer", str(job.output), str(picture), "--explain", "--page", str(tmp_path / "page.html"))
    assert "(film)" in output and "[2 latents]" in output
    lines = [line for line in output.splitlines() if line.strip().startswith("imagined ")]
    assert len(lines) == 2 and all("row " in line and ("right" in line or "WRONG" in line) for line in lines)
    plain = mirage("answer", str(job.output), str(picture)).splitlines()
    assert [line for line in plain if line.strip().startswith("imagined ")] == lines
    assert "What its latents imagine" in (tmp_path / "page.html").read_text()
    with Image.open(tmp_path / "page.gif") as animation:
        assert animation.n_frames == 2  # type: ignore[attr-defined]


def test_an_exported_folder_answers_a_question_with_no_flags(stored: Artifact, picture: Path, tmp_path: Path) -> None:
    mirage("export", stored.path, str(tmp_path / "out"), "--adapter", "drop")
    output = mirage("answer", str(tmp_path / "out"), str(picture), "Which way?")
    assert "(without-stage-1)" in output and "answer  " in output
    chosen = find_checkpoint(str(tmp_path / "out"), None, Store.open(tmp_path / "none"))
    assert chosen.settings.evaluation.max_new_tokens == 5 and chosen.settings.recipe == "small"
    assert chosen.settings.runtime.teacher.base_url == NO_TEACHER


def test_an_export_has_the_newest_scores_of_this_model_on_its_card(stored: Artifact, tmp_path: Path) -> None:
    mirage("export", stored.path, str(tmp_path / "out"), "--licence", "mit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| vsp-planning | 3 | stage-2 | 62.5% | 50.0% to 75.0% | 80 | 2 | optimal |" in card
    assert "10.0%" not in card and "90.0%" not in card
    assert front_matter(card)["license"] == "mit"
    assert json.loads((tmp_path / "out" / "mirage.json").read_text())["scores"] == [ROW]
    load_model(tmp_path / "out")
    mirage("export", str(tmp_path / "out"), str(tmp_path / "again"))
    for path in (tmp_path / "out").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("adapter", "weights", "alone"), (("keep", 1, 1), ("drop", 1, 0), ("only", 0, 1)))
def test_adapters_are_kept_dropped_or_alone(
    stored: Artifact, tmp_path: Path, adapter: str, weights: int, alone: int
) -> None:
    out = tmp_path / "out"
    mirage("export", stored.path, str(out), "--adapter", adapter)
    assert len(list(out.glob("model*.safetensors"))) == weights
    assert len(list(out.rglob("adapter_model.safetensors"))) == alone
    card = (out / "README.md").read_text()
    assert ("PeftModel" in card) == (adapter == "only") and ("`adapter/`" in card) == (adapter == "keep")


def test_adapters_alone_are_refused_where_there_are_none(trained: Path, tmp_path: Path) -> None:
    base = trained.parents[1] / "inputs" / "model"
    with pytest.raises(InputError, match="without --adapter only"):
        mirage("export", str(base), str(tmp_path / "out"), "--adapter", "only")
    assert not (tmp_path / "out").exists()


def test_an_export_never_writes_into_a_folder_in_use(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for target in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InputError, match="name a new one"):
            mirage("export", str(trained), str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def pushed(url: str, home: Path, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """``mirage push`` as a user runs it: the client reads its endpoint when it is imported."""
    # Xet, the hub's own storage, is a service of its own; without it the client uploads as git-lfs does.
    hub = {
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "push", *words],
        env={**os.environ, **hub},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_push_sends_every_file_and_the_card_and_never_tells_the_token(stored: Artifact, tmp_path: Path) -> None:
    with running_hub() as hub:
        done = pushed(hub.url, tmp_path, stored.path, "--to", "me/mine", "--private")
        assert done.returncode == 0, done.stderr
        assert f"{stored.path} -> {hub.url}/me/mine" in done.stdout
        files = hub.repositories["me/mine"]
        assert hub.private == {"me/mine": True}
    mirage("export", stored.path, str(tmp_path / "out"))
    out = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert files == out and "adapter/adapter_model.safetensors" in files
    assert b"62.5%" in files["README.md"]
    assert TOKEN not in done.stdout + done.stderr


def test_what_a_hub_refuses_is_said_in_one_line_with_the_way_out(trained: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        done = pushed(hub.url, tmp_path, str(trained), "--to", "me/mine", token="hf_wrong")
        assert done.returncode == 1 and "status 401" in done.stderr and "HF_TOKEN" in done.stderr
        assert "hf_wrong" not in done.stdout + done.stderr and "Traceback" not in done.stderr
        assert hub.repositories == {}


def test_a_dry_run_sends_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.commands.export.upload", pytest.fail)
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    output = mirage("push", str(trained), "--to", "me/mine", "--dry-run")
    assert "model.safetensors" in output and "would push" in output


@pytest.mark.parametrize("name", ("mine", "a/b/c", "https://huggingface.co/a/b", "a/", "/b"))
def test_a_name_that_no_hub_has_is_refused(name: str, trained: Path) -> None:
    with pytest.raises(InputError, match="expected user/name"):
        mirage("push", str(trained), "--to", name)


def test_words_are_a_model_a_picture_and_a_question(tmp_path: Path) -> None:
    folder, image = str(tmp_path), Path("a.png")
    assert parse_words(["a.png"], None) == (None, image, None)
    assert parse_words(["a.png", "why?"], "model/1") == ("model/1", image, "why?")
    assert parse_words([folder, "a.png"], None) == (folder, image, None)
    assert parse_words(["model/1", "a.png", "why?"], None) == ("model/1", image, "why?")
    for words, reference in (([folder], None), (["a", "b", "c", "d"], None), ([folder, "a.png"], "model/1")):
        with pytest.raises(InputError):
            parse_words(words, reference)


def test_the_benchmark_is_the_first_that_the_model_was_trained_on() -> None:
    assert default_benchmark(small_settings()) == "vsp-planning"
    assert default_benchmark(small_settings(problems={"vsp_planning": None, "sat": {}})) == "sat"


def test_sizes_are_told_in_the_unit_that_suits() -> None:
    assert [format_bytes(count) for count in (12, 12_345, 16_600_000_000)] == ["12 B", "12.3 KB", "16.6 GB"]
