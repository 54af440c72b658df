"""Stages cut into shards: what one process gives, whoever makes them and whatever happens to one of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as some

from mirage_core.errors import ArtifactError, DataError, InputError, TrainingProcessDied
from mirage_core.evaluation.evaluate import merge_folders, problems_of_batches
from mirage_core.generation.generator import fixed_batches
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.shards import SHARD, Shard, in_processes, run_shard, shard_stage
from mirage_core.pipeline.stage import ShardSpec, stage_fingerprint
from mirage_core.store import Store
from mirage_core.types import Artifact, Problem, Progress
from tests.machines.asleep import fall_asleep
from tests.machines.small_world import CUT, World, here, recipe, refuses, silent
from tests.pipeline.fakes import Events
from tests.pipeline.jobs_here import jobs_here


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Artifact]:
    """What one process gives."""
    with jobs_here():
        return World.create(tmp_path_factory.mktemp("one"), model_folder).all(refuses)


@limits(deadline=None)
@given(items=some.integers(0, 50), count=some.integers(1, 12))
def test_the_shares_hold_every_item_once_and_in_order_and_differ_by_one_at_most(items: int, count: int) -> None:
    shares = [ShardSpec(index=index, count=count).select(range(items)) for index in range(count)]
    assert [item for share in shares for item in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@limits(deadline=None)
@given(count=some.integers(1, 7), batch_size=some.integers(1, 5))
def test_the_batches_of_the_shares_are_the_batches_of_the_whole(count: int, batch_size: int) -> None:
    problems = _problems()
    whole = [[problems[at].id for at in batch] for batch in fixed_batches(problems, batch_size)]
    parts = []
    for index in range(min(count, len(whole))):
        share = ShardSpec(index=index, count=min(count, len(whole)))
        own = problems_of_batches(problems, batch_size, share.select)
        parts += [[own[at].id for at in batch] for batch in fixed_batches(own, batch_size)]
    assert parts == whole


def test_two_processes_give_the_artifact_of_one(world: World, undisturbed: dict[str, Artifact]) -> None:
    reopen = partial(Store.open, world.store.url, world.store.cache)

    cut = world.take("evaluation", in_processes(reopen), "runtime.shards=2").artifact

    assert cut == undisturbed["evaluation"]  # kind, path, digest and summary
    assert world.store.list(SHARD) == []
    assert not _children()


@pytest.mark.parametrize("count", [3, 1000])
def test_however_it_is_cut_the_artifacts_are_the_same(
    world: World, undisturbed: dict[str, Artifact], count: int
) -> None:
    shares: list[ShardSpec] = []

    for name in CUT[:2]:
        made_here = here(world.store, lambda shard: shares.append(shard.spec))
        result = world.take(name, made_here, f"runtime.shards={count}")
        assert result.artifact == undisturbed[name]
    assert {share.count for share in shares} == ({3} if count == 3 else {25, 16}), "no share may be empty"


def test_the_cut_is_no_part_of_the_identity_and_a_cached_stage_makes_no_shard(world: World) -> None:
    for name in CUT[:2]:
        first = world.take(name, refuses)
        again = world.take(name, refuses, "runtime.shards=5", "runtime.task_runner=dask")
        assert (first.cached, again.cached, again.artifact) == (False, True, first.artifact)


def test_a_shard_is_known_by_the_whole_stage_and_its_share(world: World) -> None:
    seen: list[str] = []

    def noting(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
        seen.extend(artifact.path for artifact in here(world.store)(shards, progress))
        raise InputError("enough")

    for cut in ("runtime.shards=2", "runtime.shards=3"):
        for look in ("auxiliary_images.arrow_width=0.2", "auxiliary_images.arrow_width=0.3"):
            with pytest.raises(InputError, match="enough"):
                world.take("auxiliary-images", noting, cut, look)
    assert len(seen) == len(set(seen)) == 2 * (2 + 3)


def test_a_shard_that_fails_is_made_again_alone(world: World, undisturbed: dict[str, Artifact]) -> None:
    tried: list[int] = []

    def fails_once(shard: Shard) -> None:
        tried.append(shard.spec.index)
        if shard.spec.index == 2 and tried.count(2) == 1:
            raise TrainingProcessDied("killed")

    with pytest.raises(TrainingProcessDied):
        world.take("auxiliary-images", here(world.store, fails_once), "runtime.shards=4")
    saved = {artifact.path for artifact in world.store.list(SHARD)}
    events = Events()
    result = world.take("auxiliary-images", here(world.store, fails_once), "runtime.shards=4", progress=events)

    assert len(saved) == 2
    assert sum(f"cached: {path}" in events.messages for path in saved) == 2
    assert result.artifact == undisturbed["auxiliary-images"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", CUT[:2])
def test_a_damaged_shard_is_made_again_and_nothing_of_it_is_used(
    world: World, undisturbed: dict[str, Artifact], name: str, damage: str
) -> None:
    asked: list[list[int]] = []

    def damaging(shards: Sequence[Shard], progress: Progress) -> Sequence[Artifact]:
        asked.append([shard.spec.index for shard in shards])
        artifacts = here(world.store)(shards, progress)
        if len(asked) == 1:
            _damage(world.store, artifacts[1], damage)
        return artifacts

    if name == "examples":
        world.take("auxiliary-images", refuses)
    result = world.take(name, damaging, "runtime.shards=3")

    assert asked == [[0, 1, 2], [1]]
    assert result.artifact == undisturbed[name]
    assert world.store.list(SHARD) == []


def test_a_shard_that_is_damaged_every_time_ends_with_the_way_out(world: World) -> None:
    def damaging(shards: Sequence[Shard], progress: Progress) -> Sequence[Artifact]:
        artifacts = here(world.store)(shards, progress)
        for artifact in artifacts:
            _damage(world.store, artifact, "flip")
        return artifacts

    with pytest.raises(ArtifactError, match=r"a shard of auxiliary-images was damaged 3 times.*check the store"):
        world.take("auxiliary-images", damaging, "runtime.shards=2")
    assert world.store.list("auxiliary-images") == []


def test_a_shard_that_was_left_by_another_cut_goes_with_the_stage(world: World) -> None:
    def fails(shard: Shard) -> None:
        if shard.spec.index:
            raise TrainingProcessDied("killed")

    with pytest.raises(TrainingProcessDied):
        world.take("auxiliary-images", here(world.store, fails), "runtime.shards=2")
    assert len(world.store.list(SHARD)) == 1
    world.take("auxiliary-images", here(world.store), "runtime.shards=3")
    assert world.store.list(SHARD) == []


def test_a_stage_that_cannot_be_cut_runs_whole_and_has_no_shards(world: World) -> None:
    whole = Shard(stage="problems", settings=recipe(), params={}, inputs={}, spec=ShardSpec(index=0, count=2))
    with pytest.raises(InputError, match="problems, which cannot be split"):
        run_shard(whole, world.store, silent)


def test_parts_that_lack_an_answer_are_refused_with_the_problem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="problems have no answer in the parts, the first is"):
        merge_folders([], _problems(), method="stage-2", latents="on", output=tmp_path)


def test_a_killed_process_is_a_transient_fault(world: World) -> None:
    with pytest.raises(TrainingProcessDied, match=r"a shard of auxiliary-images was killed.*are kept"):
        world.take("auxiliary-images", in_processes(partial(os._exit, 3)), "runtime.shards=2")  # type: ignore[arg-type]


def test_an_interrupt_stops_the_processes_at_once(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # Whoever runs the tests in the background of a script has SIGINT ignored, and so would we.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    sleeps = tmp_path / "asleep"
    sleeps.mkdir()
    interrupter = threading.Thread(target=_interrupt_when, args=(sleeps, 2), daemon=True)
    interrupter.start()

    with pytest.raises(KeyboardInterrupt):
        world.take("auxiliary-images", in_processes(partial(fall_asleep, sleeps)), "runtime.shards=2")

    interrupter.join(timeout=10)
    assert not _children()


def test_a_shard_of_an_evaluation_says_what_it_is_a_part_of_and_keeps_its_finished_batches(world: World) -> None:
    settings, params = recipe("runtime.shards=2"), {"method": "stage-2"}
    inputs = {name: world.inputs[name] for name in ("model", "problems")}
    evaluation, share = get_stage("evaluation"), ShardSpec(index=0, count=2)
    shard = Shard(stage="evaluation", settings=settings, params=params, inputs=inputs, spec=share)
    assert evaluation.sharding is not None

    part = shard_stage(evaluation, evaluation.sharding, shard)

    assert (part.kind, part.keeps_scratch, shard.label) == (SHARD, True, "evaluation/stage-2 1 of 2")
    whole = stage_fingerprint(evaluation, settings, inputs, params)
    assert part.identity(settings) == {"of": whole, "share": {"index": 0, "count": 2}}


@lru_cache
def _problems() -> tuple[Problem, ...]:
    from mirage_core.benchmarks.generate import generate_problems

    return tuple(generate_problems(recipe().problems, 42, silent))


def _damage(store: Store, artifact: Artifact, how: str) -> None:
    file = max(store.fetch(artifact).iterdir(), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    if how == "flip":
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif how == "truncate":
        file.write_bytes(data[:-1])
    else:
        file.unlink()


def _interrupt_when(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def _children() -> list[psutil.Process]:
    own = psutil.Process().children(recursive=True)
    return [child for child in own if "spawn_main" in " ".join(child.cmdline())]
