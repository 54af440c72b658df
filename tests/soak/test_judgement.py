"""The soak's own judgement: what it must call wrong, it does."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from mirage_core.pipeline.run_record import StageLine, new_record, save_record
from mirage_core.pipeline.shards import SHARD
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact
from tests.soak import __main__ as soak
from tests.soak import audit, beside, flips, kills, writers
from tests.soak.counts import Tally
from tests.soak.pipeline_run import CHECKPOINT_EVERY, PipelineRun

RUN = fingerprint("relaxation", 1, {}, {})


def publish(store: Store, folder: Path, text: str, kind: str = "model") -> Artifact:
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(text)
    return store.publish(kind, fingerprint("x", 1, text, {}), folder, summary={}, about={})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a local folder."""
    return Store.open(tmp_path / "store", cache=tmp_path / "cache")


def audited(store: Store, known: dict[str, str]) -> dict[str, int]:
    tally = Tally("audit", audit.WRONGS)
    audit.audit(store, known, tally, "now")
    return {name: count for name, count in tally.wrong.items() if count}


def test_a_good_store_is_called_good_and_becomes_known(store: Store, tmp_path: Path) -> None:
    artifact = publish(store, tmp_path / "made", "a")
    store.save_checkpoint(RUN, 6, tmp_path / "made")
    store.write_json("runs/a.json", {"id": "a", "recipe": "micro", "started": "now"})
    known: dict[str, str] = {}
    assert audited(store, known) == {}
    assert known == {artifact.path: artifact.digest}


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        ("remove artifact", audit.LOST),
        ("remove file", audit.LOST),
        ("other digest", audit.LOST),
        ("half artifact", audit.HALF),
        ("broken manifest", audit.HALF),
        ("torn checkpoint", audit.TORN),
        ("torn record", audit.RECORDS),
        ("quarantine", audit.ACCUSED),
    ],
)
def test_each_sort_of_harm_is_counted_under_its_name(store: Store, tmp_path: Path, harm: str, wrong: str) -> None:
    artifact = publish(store, tmp_path / "made", "a")
    store.save_checkpoint(RUN, 6, tmp_path / "made")
    store.write_json("runs/a.json", {"id": "a", "recipe": "micro", "started": "now"})
    known = {artifact.path: artifact.digest}
    folder = store.manifest(artifact).folder
    match harm:
        case "remove artifact":
            store.remove(artifact)
        case "remove file":
            store.backend.remove(f"{artifact.path}/{folder}/file")
        case "other digest":
            known[artifact.path] = "0" * 64
        case "half artifact":
            other = publish(store, tmp_path / "made", "b")
            store.backend.write(f"{other.path}/{store.manifest(other).folder}/file", b"?")
        case "broken manifest":
            store.backend.write("model/00000000000000000000/manifest.json", b"{")
        case "torn checkpoint":
            store.backend.write(f"checkpoints/{RUN[:20]}/00000006/{folder}/file", b"?")
        case "torn record":
            store.backend.write("runs/a.json", b'{"id": "a"')
        case "quarantine":
            store.backend.write("quarantine/model/x/1.json", b"{}")
    assert wrong in audited(store, known)


def resumed(tmp_path: Path, *events: tuple[int, str, int]) -> Tally:
    """The verdict on a pipeline whose relaxation noted these events: (process, what, step)."""
    pipeline = PipelineRun(tmp_path, str(tmp_path / "store"))
    lines = [
        json.dumps({"attempt": 1, "pid": pid, "event": what, "program": "relaxation", "step": step})
        for pid, what, step in events
    ]
    pipeline.log.write_text("\n".join(lines) + "\n")
    tally = Tally("kills", kills.WRONGS)
    model = kills.Undisturbed({}, (), 1.0, 1)
    kills.Killer(1, 1, model, tally)._check_again(pipeline)
    return tally


def steps(pid: int, first: int, last: int) -> list[tuple[int, str, int]]:
    return [(pid, "step", step) for step in range(first, last + 1)]


def test_going_on_from_the_newest_saved_checkpoint_is_good(tmp_path: Path) -> None:
    saved = [(1, "announced", 6), (9, "saved", 6)]
    tally = resumed(tmp_path, *steps(1, 0, 5), *saved, *steps(1, 6, 10), *steps(2, 6, 19))
    assert tally.good
    assert (tally.done["steps done again"], tally.figures["most steps done again"]) == (5, 5)


def test_a_saved_checkpoint_that_is_not_used_is_counted(tmp_path: Path) -> None:
    saved = [(1, "announced", 6), (9, "saved", 6)]
    tally = resumed(tmp_path, *steps(1, 0, 5), *saved, *steps(1, 6, 7), *steps(2, 0, 19))
    assert tally.wrong[kills.UNUSED] == 1


def test_more_than_one_interval_done_again_is_counted(tmp_path: Path) -> None:
    tally = resumed(tmp_path, *steps(1, 0, CHECKPOINT_EVERY + 1), *steps(2, 0, 19))
    assert tally.wrong[kills.AGAIN] == 1


def test_what_was_done_while_a_checkpoint_travelled_is_not_counted_as_another_interval(tmp_path: Path) -> None:
    tally = resumed(tmp_path, *steps(1, 0, 5), (1, "announced", 6), *steps(1, 6, 8), *steps(2, 0, 19))
    assert tally.good
    assert tally.figures["most steps done again"] == 9


def test_a_damage_nobody_notices_is_counted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = publish(store, tmp_path / "made", "a" * 1000)
    key = f"{artifact.path}/{store.manifest(artifact).folder}/file"
    target = flips.Target("model", artifact.path, "file", key, store.backend.read(key))
    pristine = flips.Pristine(store, {artifact.path: artifact}, {"model": [target]}, RUN, (6, 12), artifact)
    other = Store.open(tmp_path / "damaged", cache=tmp_path / "other-cache")
    seen = Tally("flips", flips.WRONGS)
    flips.Flipper(pristine, other, 1, seen).run(20, lambda amount: None)
    assert seen.good and seen.done["damaged: model"] == 20
    monkeypatch.setattr(Store, "verify", lambda *_: [])
    blind = Tally("flips", flips.WRONGS)
    flips.Flipper(pristine, other, 1, blind).run(20, lambda amount: None)
    assert blind.wrong[flips.UNNOTICED] == 20


KINDS = ("problems", "auxiliary-images", "examples", "model", "evaluation", "report")


@dataclass
class CompletedRun:
    """A pipeline that nobody had to walk: an artifact of each kind, a run record, two checkpoints."""

    folder: Path

    def store(self) -> Store:
        return Store.open(self.folder / "store", cache=self.folder / "cache")

    @property
    def checkpoint_copies(self) -> Path:
        return self.folder / "kept"

    def run_to_end(self) -> None:
        artifact = {kind: publish(self.store(), self.folder / kind, kind * 100, kind) for kind in KINDS}
        lines = (StageLine(name="relaxation", state="Completed", seconds=1.0, path=artifact["model"].path),)
        save_record(self.store(), new_record("micro", {"seed": 1}).model_copy(update={"stages": lines}))
        for step in (6, 12):
            (self.checkpoint_copies / f"relaxation-{step:08d}").mkdir(parents=True)
            (self.checkpoint_copies / f"relaxation-{step:08d}" / "shard").write_text(f"state {step}" * 100)


def test_all_that_a_store_keeps_is_damaged_and_every_damage_is_noticed_and_named(tmp_path: Path) -> None:
    pipeline = CompletedRun(tmp_path)
    pipeline.run_to_end()
    pristine = flips.Pristine.of(cast(PipelineRun, pipeline))
    beside_artifacts = ("checkpoint", "run record", "pointer", beside.ANSWER, beside.NIGHT)
    kinds = {*KINDS, SHARD, "manifest", "checkpoint's manifest", *beside_artifacts}
    assert set(pristine.targets) == kinds
    tally = Tally("flips", flips.WRONGS)
    damaged = Store.open(tmp_path / "damaged", cache=tmp_path / "other-cache")
    flips.Flipper(pristine, damaged, 1, tally).run(10 * len(kinds), lambda amount: None)
    assert tally.good, tally.cases
    assert {name: count for name, count in tally.done.items() if name.startswith("damaged: ")} == dict.fromkeys(
        (f"damaged: {kind}" for kind in kinds), 10
    )


def test_damages_are_drawn_from_the_seed_and_always_change_something() -> None:
    data = bytes(range(256))
    first, second = ([flips.damaged(data, random.Random(seed)) for seed in range(200)] for _ in range(2))
    assert first == second
    assert all(harmed != data for harmed, _ in first)


def test_two_winners_of_a_round_are_counted(store: Store, tmp_path: Path) -> None:
    race = writers.Race(store.url, {}, tmp_path, 1, 1)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("a")
    artifact = store.publish(writers.KIND, race.identified(0), tmp_path / "made", summary={}, about={})
    tally = Tally("writers", writers.WRONGS)
    writers._judge(race, 0, [artifact.digest, artifact.digest], tally)
    assert tally.good
    writers._judge(race, 0, [artifact.digest, "0" * 64], tally)
    assert (tally.wrong[writers.TWO], tally.wrong[writers.OTHER]) == (1, 1)


def test_the_exit_status_says_whether_all_that_must_be_zero_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(wrong: int) -> Any:
        def run(artifact: soak.Soak) -> None:
            tally = artifact.tally("writers, local", ["never"])
            for _ in range(wrong):
                tally.fault("never", "seen")
            artifact.task("writers", 1)(1)
            assert json.loads(target.read_text())["complete"] is False, "what was counted so far is kept"

        return run

    for wrong in (0, 1):
        monkeypatch.setitem(soak.RUN, "writers", part(wrong))
        target = tmp_path / f"{wrong}.json"
        assert soak.main(["--parts", "writers", "--where", "local", "--json", str(target)]) == wrong
        assert json.loads(capsys.readouterr().out)["good"] is (wrong == 0)
        assert json.loads(target.read_text())["complete"] is True
        assert json.loads(target.read_text())["parts"][0]["must_be_zero"] == {"never": wrong}


def test_an_unknown_part_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.parse(["--parts", "kills,floods"])
    assert "floods" in capsys.readouterr().err
