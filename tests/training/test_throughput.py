"""Speed, padding and memory: right figures, and none of them in what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventWriter
from mirage_core.latent.collate import collate
from mirage_core.store.records import load_examples
from mirage_core.store.tables import read_table
from mirage_core.training.logging.run_log import RunLog
from mirage_core.training.logging.throughput import ThroughputMeter, memory, work_of
from mirage_core.training.sft.examples import example_encoder
from mirage_core.training.sft.train import load_trainable, run_supervised
from mirage_core.types import ProgressEvent
from tests.training.small_world import make_job, small_settings


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_reads_work_a_second_since_the_last_reading_without_the_pauses() -> None:
    clock = Clock()
    meter = ThroughputMeter(torch.device("cpu"), clock)
    for _ in range(2):
        meter.count({"examples": 8.0, "tokens": 300.0, "latents": 32.0, "places": 400.0})
        clock.now += 1.0
    with meter.paused():
        clock.now += 50.0
    figures = meter.read()
    assert figures["time/steps_per_second"] == 1.0
    assert figures["time/examples_per_second"] == 8.0
    assert figures["time/tokens_per_second"] == 300.0
    assert figures["time/latents_per_second"] == 32.0
    assert figures["time/padding_share"] == 0.25
    assert "time/places_per_second" not in figures
    clock.now += 4.0
    meter.count({"examples": 8.0})
    assert meter.read()["time/examples_per_second"] == 2.0


def test_the_memory_of_a_process_is_told_in_gib() -> None:
    found = memory(torch.device("cpu"))
    assert 0.05 < found["process_memory_gib"] < 100
    assert "device_memory_gib" not in found


def test_on_a_gpu_the_most_that_its_tensors_took_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    assert memory(torch.device("cuda", 0))["device_memory_gib"] == 3.0


def test_the_work_of_a_batch_is_its_examples_tokens_latents_and_places(inputs: Path, tmp_path: Path) -> None:
    model = load_trainable(make_job(inputs, tmp_path, "grounding"))
    examples = load_examples(inputs / "examples", split="train")[:3]
    encode = example_encoder("grounding", small_settings(), model, examples)
    encoded = [encode(index) for index in range(3)]
    batch = collate(encoded, model.ids, model.backbone.position_ids)
    work = work_of(batch)
    assert (work["examples"], work["latents"]) == (3.0, 6.0)
    assert work["tokens"] == sum(len(one.ids) for one in encoded)
    assert work["places"] == batch.input_ids.numel()


def test_speed_is_told_from_the_second_report_on_and_always_at_the_end() -> None:
    reported: list[ProgressEvent] = []
    written: list[int] = []
    meter = ThroughputMeter(torch.device("cpu"))
    log = RunLog("text", 3, reported.append, lambda step, figures: written.append(step), meter)
    for step in (1, 2, 3):
        meter.count({"tokens": 5.0})
        log.step(step, {"loss": 1.0})
    assert [event.step for event in reported] == [1, 3]  # two seconds have not gone by
    assert "tokens_per_second" not in reported[0].metrics
    assert reported[1].metrics["tokens_per_second"] > 0 and reported[1].metrics["process_memory_gib"] > 0
    assert "tokens_per_second" in reported[1].message
    assert written == [1, 2, 3]


def test_other_processes_say_nothing() -> None:
    reported: list[object] = []
    log = RunLog(
        "text", 3, reported.append, lambda step, _: reported.append(step), ThroughputMeter(torch.device("cpu"))
    )
    with as_process(ProcessContext.on_one_host(1, 2)):
        log.step(1, {"loss": 1.0})
        log.validated(1, {"validation/loss": 1.0})
        log.message("something")
    assert reported == []


@pytest.mark.parametrize("program", ("text", "relaxation"))
def test_a_run_tells_its_speed_and_keeps_none_of_it(inputs: Path, tmp_path: Path, program: str) -> None:
    job = make_job(inputs, tmp_path, program)  # type: ignore[arg-type]
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    events = [json.loads(line) for line in (job.scratch / "events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["kind"] == "progress" and event["step"]][-1]
    expected = {"examples_per_second", "tokens_per_second", "latents_per_second", "padding_share", "process_memory_gib"}
    assert expected <= last["metrics"].keys()
    assert (last["metrics"]["latents_per_second"] > 0) is (program == "relaxation")
    kept = {row["name"] for row in read_table(job.output / "curves.parquet")}
    assert not [name for name in kept if "second" in name or "memory" in name or "padding" in name]
