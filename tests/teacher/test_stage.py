"""The whole stage on a server: the same bytes however it was asked, interrupted, killed or replayed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.errors import EndpointUnavailable
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.store import Store
from mirage_core.store.records import load_auxiliary_images, load_examples, load_problems, load_rejections
from mirage_core.types import Artifact, Problem
from tests.llm_client.chat_server import Call, ChatServer, chat_server
from tests.teacher.good_teacher import GoodTeacher
from tests.teacher.stage_child import examples, quiet

DATA = {"train_levels": [3], "train": 8, "validation": 2, "test_per_level": 1, "test_levels": [3]}
PATIENCE_S = 180


def settings(url: str | None, runtime: dict[str, Any] | None = None, **teacher: Any) -> Settings:
    """A recipe of twenty chains."""
    quick = {"base_url": url, "backoff_s": 0.0, "concurrency": 4, "tries": 2}
    chosen = {"kind": "endpoint", "variant": "cot", "model": "tiny-teacher", "attempts": 2, "min_accepted": 0.5}
    return Settings.model_validate(
        {
            "recipe": "taught",
            "problems": {"vsp_planning": DATA, "vsp_reasoning": DATA},
            "teacher": {**chosen, **teacher},
            "runtime": {"teacher": {**quick, **(runtime or {})}},
        }
    )


class Uneven(GoodTeacher):
    """Answers well, but some problems only at the second time of asking, and one never."""

    def __call__(self, call: Call) -> None:
        problem = self.problem(call)
        number = sorted(self.ids()).index(problem.id)
        first = len(call.body["messages"]) == 2
        if number == 5 or (number % 4 == 0 and first):
            call.reply(f"\\boxed{{{problem.answer}}} is all I say.")
        else:
            super().__call__(call)

    def ids(self) -> set[str]:
        """The problems it was told of."""
        return {problem.id for problem in self.problems.values()}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The problems of the recipe, as its own stages make them."""
    store = Store.open(tmp_path_factory.mktemp("lessons"))
    chosen = settings(None, kind="oracle")
    problems = run_stage(STAGES["problems"], chosen, {}, store, quiet).artifact
    drawn = run_stage(STAGES["auxiliary-images"], chosen, {"problems": problems}, store, quiet).artifact
    images = {image.problem_id: image for image in load_auxiliary_images(store.fetch(drawn))}
    result: list[Problem] = [p for p in load_problems(store.fetch(problems)) if p.split != "test"]
    return [(problem, images[problem.id]) for problem in result]


def served(server: ChatServer, folder: Path, runtime: dict[str, Any] | None = None) -> tuple[Artifact, Store]:
    """The stage's artifact in a store of its own."""
    store = Store.open(folder)
    return examples(settings(server.url, runtime), store), store


def test_the_artifact_is_the_same_whatever_the_pace_and_says_what_was_not_accepted(
    tmp_path: Path, pairs: list[Any]
) -> None:
    with chat_server(Uneven(pairs)) as server:
        one, store = served(server, tmp_path / "one", {"concurrency": 1, "price_prompt": 1.0})
        num_requests = len(server.calls)
        eight, _ = served(server, tmp_path / "eight", {"concurrency": 8, "price_prompt": 2.0, "timeout_s": 99})
    assert one.digest == eight.digest
    folder = store.fetch(one)
    rejections = load_rejections(folder)
    left_out = [rejection for rejection in rejections if rejection.left_out]
    assert (len(rejections), len(left_out)) == (num_requests - 19, 1)
    assert {rejection.reason for rejection in rejections} == {"place"}
    result = {example.problem.id for example in load_examples(folder)}
    assert result == {problem.id for problem, _ in pairs} - {left_out[0].problem_id}
    usage = json.loads((folder / "account.json").read_text())
    assert usage["answers"] == num_requests
    assert (usage["accepted"], usage["left_out"]) == (19, 1)
    assert usage["rejected"] == {"place": len(rejections)}
    assert usage["written_by"] == {"tiny-teacher": 19}
    assert one.summary["teacher"] == "tiny-teacher"
    assert one.summary["account"]["requests"] == num_requests
    assert one.summary["account"]["cost"] == pytest.approx(num_requests * 100 / 1e6)
    assert eight.summary["account"]["cost"] == pytest.approx(num_requests * 200 / 1e6)


def test_a_stage_that_is_killed_goes_on_without_paying_twice(tmp_path: Path, pairs: list[Any]) -> None:
    uneven = Uneven(pairs)
    stop_after, killed = 9, threading.Event()

    def respond(call: Call) -> None:
        if call.number > stop_after and not killed.is_set():
            killed.wait(PATIENCE_S)  # under way when the process dies: never answered
            raise BrokenPipeError
        uneven(call)

    with chat_server(respond) as server:
        wanted, _ = served_well(uneven, tmp_path / "whole")
        chosen = settings(server.url).model_dump_json()
        command = [sys.executable, "-m", "tests.teacher.stage_child", chosen, str(tmp_path / "store")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        store = Store.open(tmp_path / "store")
        try:
            until(lambda: len(server.calls) == stop_after + 4 and len(store.names("answers/")) == stop_after)
        finally:
            child.kill()
            child.wait(PATIENCE_S)
        assert store.list("examples") == []
        killed.set()
        answered = list(server.answered)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert done.stdout.strip() == wanted.digest
        paid = [body for body in server.answered if body not in answered]
        assert len(answered) == len(set(answered)) == stop_after
        assert len(server.answered) == len(answered) + len(set(paid))
    summary = store.list("examples")[0].summary["account"]
    assert summary["kept_answers"] == stop_after
    assert summary["requests"] == len(paid)


def served_well(respond: GoodTeacher, folder: Path) -> tuple[Artifact, Store]:
    with chat_server(respond) as server:
        return served(server, folder)


def until(condition: Any) -> None:
    """Poll until ``condition``."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_another_machine_with_the_same_store_goes_on_where_this_one_failed(tmp_path: Path, pairs: list[Any]) -> None:
    uneven = Uneven(pairs)

    def respond(call: Call) -> None:
        if call.number > 11:
            call.fail(503)
        else:
            uneven(call)

    with chat_server(respond) as server:
        with pytest.raises(EndpointUnavailable):
            served(server, tmp_path / "store")
        answered = len(server.answered) - sum(call.number > 11 for call in server.calls)
    with chat_server(uneven) as server:
        artifact, _ = served(server, tmp_path / "store", {"concurrency": 2})
        assert artifact.summary["account"]["kept_answers"] == answered == 11
        again, _ = served(server, tmp_path / "elsewhere")
    assert artifact.digest == again.digest


def test_a_replay_of_the_answers_gives_the_same_bytes_without_a_server(tmp_path: Path, pairs: list[Any]) -> None:
    wanted, store = served_well(Uneven(pairs), tmp_path / "store")
    recording = tmp_path / "recording.jsonl"
    recording.write_bytes(b"".join(store.backend.read(name) for name in store.names("answers/")))
    for number, chosen in enumerate(
        [settings(None, kind="replay", recording=str(recording)), settings(None, kind="replay")]
    ):
        place = Store.open(tmp_path / "new") if number == 0 else store
        replayed = examples(chosen, place)
        for name in ("examples.parquet", "rejections.parquet", "account.json"):  # the card says that it was a replay
            assert (place.fetch(replayed) / name).read_bytes() == (store.fetch(wanted) / name).read_bytes()
        assert replayed.path != wanted.path
        assert replayed.summary["account"]["requests"] == 0


def test_an_endpoint_is_asked_by_one_process_however_the_stage_is_cut(tmp_path: Path, pairs: list[Any]) -> None:
    from mirage_core.pipeline.shards import in_shards

    with chat_server(Uneven(pairs)) as server:
        wanted, store = served(server, tmp_path / "store")
        cut = settings(server.url)
        cut = cut.model_copy(update={"runtime": cut.runtime.model_copy(update={"shards": 3})})
        inputs = {"problems": store.list("problems")[0], "auxiliary_images": store.list("auxiliary-images")[0]}
        store.remove(wanted)

        def fan_out(*_: Any) -> Any:
            raise AssertionError("the stage was cut")

        again = run_stage(in_shards(STAGES["examples"], cut, fan_out), cut, inputs, store, quiet)
    assert again.artifact.digest == wanted.digest


def test_the_oracle_leaves_an_empty_table_of_rejections_and_an_account_that_names_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    artifact = examples(settings(None, kind="oracle"), store)
    folder = store.fetch(artifact)
    assert load_rejections(folder) == []
    assert json.loads((folder / "account.json").read_text()) == {
        "accepted": 20, "written_by": {"oracle": 20}, "left_out": 0, "rejected": {},
    }  # fmt: skip
    assert artifact.summary["teacher"] == "oracle"
    assert "account" not in artifact.summary
