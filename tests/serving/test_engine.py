"""The engine's thread: jobs wait, run and leave, and an error ends only those that it concerns."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from mirage_core.errors import InputError
from mirage_core.generation.continuous import ContinuousDecoder, RowSettings, RowStep
from mirage_core.generation.decode import DecodeSettings
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.serving.engine import PATIENCE, Engine, Job, Shared, grouped
from mirage_core.serving.limits import EngineFailed
from tests.latent.tiny import IDS, Maker, tiny_backbone

ENDLESS = RowSettings(max_new_tokens=100_000)
SHORT = RowSettings(max_new_tokens=3)


class Breaking(ContinuousDecoder):
    """Fails in its second step, once for all decoders."""

    failures = 1

    def step(self) -> list[RowStep]:
        if self._num_tokens.any() and Breaking.failures:
            Breaking.failures -= 1
            raise MemoryError("no memory")
        return super().step()


class BreakingAtJoin(ContinuousDecoder):
    """Has no memory for a prompt, once for all decoders."""

    failures = 1

    def join(self, prompts: Sequence[EncodedPrompt], rows: Sequence[Sequence[RowSettings]]) -> list[list[int]]:
        if BreakingAtJoin.failures:
            BreakingAtJoin.failures -= 1
            raise MemoryError("no memory")
        return super().join(prompts, rows)


class Client:
    """A job and what it got."""

    def __init__(self, *rows: RowSettings, prompt: EncodedPrompt | None = None) -> None:
        self.got: queue.Queue[Any] = queue.Queue()
        self.joined = 0
        self.job = Job(prompt or Maker(3).prompt(), rows, self.got.put, self._join)

    def _join(self) -> None:
        self.joined += 1

    def answers(self) -> dict[int, tuple[int, ...]]:
        """The tokens of all answers, once they have ended. Raises what the job got instead."""
        found: dict[int, tuple[int, ...]] = {}
        while len(found) < len(self.job.rows):
            part = self.got.get(timeout=30)
            if isinstance(part, Exception):
                raise part
            found |= {choice: step.answer.token_ids for choice, step in part if step.answer is not None}
        return found


def settings(**more: Any) -> DecodeSettings:
    banned = (IDS.end_of_turn, IDS.pad)
    return DecodeSettings(max_new_tokens=1, num_latents=2, max_spans=1, banned=banned, **more)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine of three rows; its parameter: the decoder's class."""
    kind = getattr(request, "param", ContinuousDecoder)
    made = Engine(lambda: kind(tiny_backbone(), IDS, settings()), 3)
    made.start()
    yield made
    made.stop()


def submit(engine: Engine, clients: Sequence[Client]) -> None:
    for client in clients:
        engine.submit(client.job)


def test_jobs_wait_until_rows_are_free_and_are_answered_alike(engine: Engine) -> None:
    clients = [Client(*[SHORT] * (1 + number % 3)) for number in range(9)]
    submit(engine, clients)
    found = [client.answers() for client in clients]
    assert len({tokens for answers in found for tokens in answers.values()}) == 1
    assert [len(answers) for answers in found] == [1, 2, 3] * 3
    assert all(client.joined == 1 for client in clients)
    assert engine.running == 0


def test_jobs_of_one_prompt_share_its_prefill(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait at the same time; each gets its own answers, and those of other prompts are encoded too."""
    encoded: list[int] = []
    join = ContinuousDecoder.join

    def counted(self: ContinuousDecoder, prompts: Any, rows: Any) -> Any:
        encoded.append(len(prompts))
        return join(self, prompts, rows)

    monkeypatch.setattr(ContinuousDecoder, "join", counted)
    uniform = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = [RowSettings(max_new_tokens=6, temperature=1.0, uniform=numbers) for numbers in uniform]
    alone = [Client(row) for row in drawn]
    expected = []
    for client in alone:  # one after the other
        engine.submit(client.job)
        expected.append(client.answers())
    assert expected[0] != expected[1] and encoded == [1, 1]
    encoded.clear()
    shared = [Client(row) for row in drawn]
    other = Client(drawn[0], prompt=Maker(5).prompt())
    for client, name in zip((*shared, other), (b"same", b"same", b"other"), strict=True):
        client.job.name = name
    with engine._changed:  # all are there when the engine looks
        submit(engine, [*shared, other])
    assert [client.answers() for client in shared] == expected
    assert len(other.answers()) == 1
    assert sum(encoded) == 2


def test_jobs_leave_waiting_or_running(engine: Engine) -> None:
    running, waiting, last = Client(ENDLESS, ENDLESS), Client(ENDLESS, ENDLESS), Client(SHORT, SHORT)
    submit(engine, [running, waiting, last])
    running.got.get(timeout=30)
    engine.cancel(waiting.job)
    engine.cancel(running.job, 0)
    engine.cancel(running.job)
    assert len(last.answers()) == 2
    assert waiting.got.empty() and waiting.joined == 1
    assert engine.running == 0


@pytest.mark.parametrize("engine", [Breaking, BreakingAtJoin], indirect=True)
def test_after_a_failure_the_next_jobs_are_answered(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaking, "failures", 1)
    monkeypatch.setattr(BreakingAtJoin, "failures", 1)
    running, waiting = Client(ENDLESS, ENDLESS), Client(SHORT)
    with engine._changed:  # both are there when the engine looks
        submit(engine, [running, waiting])
    for client in (running, waiting):
        with pytest.raises(EngineFailed, match="MemoryError"):
            client.answers()
    assert (running.joined, waiting.joined) == (1, 1)
    again = Client(SHORT)
    engine.submit(again.job)
    assert len(again.answers()) == 1 and engine.alive


def test_a_prompt_that_cannot_be_decoded_concerns_no_other_job(engine: Engine) -> None:
    bad = EncodedPrompt(
        ids=torch.tensor([1, IDS.latent_pad, 2]), pixel_values=torch.empty(0, 1176), grid_thw=torch.empty(0, 3).long()
    )
    good, refused = Client(SHORT), Client(SHORT, prompt=bad)
    submit(engine, [refused, good])
    with pytest.raises(InputError, match="latent_pad"):
        refused.answers()
    assert len(good.answers()) == 1 and refused.joined == 1


def test_jobs_that_are_left_at_the_end_are_told() -> None:
    made = Engine(lambda: ContinuousDecoder(tiny_backbone(), IDS, settings()), 2)
    made.start()
    running, waiting = Client(ENDLESS, ENDLESS), Client(SHORT)
    submit(made, [running, waiting])
    running.got.get(timeout=30)
    made.stop()
    for client in (running, waiting):
        with pytest.raises(EngineFailed, match="going down"):
            client.answers()
    assert not made.alive
    with pytest.raises(EngineFailed, match="going down"):
        made.submit(waiting.job)


def job(tokens: int, answers: int = 1) -> Job:
    prompt = EncodedPrompt(
        ids=torch.zeros(tokens, dtype=torch.long), pixel_values=torch.empty(0, 1176), grid_thw=torch.empty(0, 3).long()
    )
    return Job(prompt, [SHORT] * answers, lambda _: None, lambda: None)


def test_prompts_are_encoded_together_unless_that_is_mostly_padding() -> None:
    prompts = [Shared([each]) for each in (job(1000), job(50), job(900), job(20), job(30, answers=2), job(980))]
    sizes = [[len(each.prompt.ids) for each in group] for group in grouped(prompts)]
    assert sizes == [[20, 50], [900, 980, 1000], [30]]
    assert grouped([]) == []


def test_a_job_waits_a_few_steps_for_others_while_more_answers_run_than_wait() -> None:
    made = Engine(lambda: ContinuousDecoder(tiny_backbone(), IDS, settings()), 5)
    running = job(3, answers=3)
    made._jobs = {number: (running, number) for number in range(3)}
    assert not made._may_join(2)  # nothing waits
    made._waiting.append(job(3))
    assert [made._may_join(2) for _ in range(PATIENCE + 2)] == [*[False] * PATIENCE, True, False]
    made._waiting.append(job(3, answers=2))
    assert made._may_join(2)  # as many wait as run
    assert not made._may_join(0)  # no row is free
