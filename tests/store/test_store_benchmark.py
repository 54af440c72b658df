from __future__ import annotations

import pytest

from bench.store import Round, measure, row
from mirage_core.errors import InputError
from tests.servers.swift import SwiftServer

pytestmark = pytest.mark.xdist_group("s3")  # one server for all


def test_the_benchmark_measures_both_sides_and_leaves_nothing_in_the_bucket(
    s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.use(monkeypatch)
    bucket = s3_server.bucket()
    rounds: list[Round] = []
    rows = measure(f"{bucket}/prefix", megabytes=1, rounds=2, on_round=rounds.append)
    assert [(measured.case, measured.megabytes, measured.rounds) for measured in rows] == [("put", 1, 2), ("get", 1, 2)]
    assert len(rounds) == 2
    assert all(set(done.seconds) == {(c, s) for c in ("put", "get") for s in ("store", "boto3")} for done in rounds)
    assert s3_server.client().list_objects_v2(Bucket=bucket.removeprefix("s3://")).get("KeyCount") == 0


def test_a_ratio_is_one_of_throughputs_by_medians() -> None:
    rounds = [Round({("put", "store"): ours, ("put", "boto3"): theirs}) for ours, theirs in ((2, 1), (4, 2), (100, 2))]
    measured = row("put", 200, rounds)
    assert (measured.ratio, measured.ours_mb_s, measured.boto3_mb_s) == (0.5, 50.0, 100.0)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_nothing_to_measure_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        measure("s3://bucket", *numbers, on_round=lambda _: None)
