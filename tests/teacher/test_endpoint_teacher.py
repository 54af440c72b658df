"""The endpoint teacher against servers that answer well, badly, seldom or never."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.errors import EndpointError, EndpointUnavailable, SettingsError, TeacherError
from mirage_core.llm_client.cached_client import CachedClient
from mirage_core.llm_client.response_cache import StoredResponseCache
from mirage_core.store import Store
from mirage_core.teacher import EndpointTeacher, make_teacher, use_key_reader
from mirage_core.teacher.attempts import Question, run, run_attempts
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.prompt_templates import load_prompt
from mirage_core.teacher.protocol import TeachResult
from mirage_core.types import ProgressEvent
from tests.llm_client.chat_server import Call, ChatServer, chat_server
from tests.teacher.conftest import Pairs, ignore_progress, teacher_runtime, teacher_settings
from tests.teacher.good_teacher import GoodTeacher


class Events:
    """Records progress events."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []

    def __call__(self, event: ProgressEvent) -> None:
        self.events.append(event)

    @property
    def messages(self) -> str:
        return "\n".join(event.message for event in self.events if event.step is None)


def teach(
    server: ChatServer,
    store: Store,
    pairs: Pairs,
    events: Any = ignore_progress,
    runtime: Any = None,
    **settings: Any,
) -> TeachResult:
    """Return the examples that the teacher of these settings writes."""
    teacher = make_teacher(teacher_settings(**settings), teacher_runtime(server.url, **(runtime or {})), store)
    assert isinstance(teacher, EndpointTeacher)
    return teacher.teach(pairs, "cot", events)


def test_chains_come_in_the_order_of_the_problems_with_an_account(store: Store, pairs: Pairs) -> None:
    events = Events()
    with chat_server(GoodTeacher(pairs)) as server:
        result = teach(server, store, pairs, events, {"price_prompt": 3.0, "price_completion": 15.0})
    assert [example.problem for example in result.examples] == [problem for problem, _ in pairs]
    assert {example.chain.teacher for example in result.examples} == {"tiny-teacher"}
    assert result.rejections == []
    assert result.usage == {
        "model": "tiny-teacher", "revision": None, "answers": 12, "prompt_tokens": 1200, "completion_tokens": 240,
        "answers_without_usage": 0, "templates": ["mirage/cot.vsp-planning@1.1", "mirage/cot.vsp-reasoning@1.1"],
    }  # fmt: skip
    this_run = {name: value for name, value in result.this_run.items() if name != "seconds"}
    assert this_run == {"requests": 12, "retries": 0, "kept_answers": 0, "cost": 0.0072, "cost_now": 0.0072}
    assert (events.events[-1].step, events.events[-1].total) == (12, 12)


def test_no_more_requests_are_under_way_than_allowed_and_the_first_goes_alone(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)
    three_at_once = threading.Barrier(3, timeout=30)

    def respond(call: Call) -> None:
        if call.number == 1:
            assert server.now == 1
        elif call.number <= 10:  # nine requests that pass only three at a time
            three_at_once.wait()
        good(call)

    with chat_server(respond) as server:
        result = teach(server, store, pairs[:10], runtime={"concurrency": 3})
    assert len(result.examples) == 10
    assert server.most_at_once == 3


def test_a_wrong_answer_is_asked_again_with_its_faults_and_both_are_kept(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)

    def respond(call: Call) -> None:
        wrong = len(call.body["messages"]) == 2 and good.problem(call) == pairs[4][0]
        call.reply("It is \\boxed{X}." if wrong else good.text(call))

    with chat_server(respond) as server:
        result = teach(server, store, pairs)
        again = teach(server, store, pairs)
        assert len(server.calls) == 13
    assert len(result.examples) == 12
    (rejection,) = result.rejections
    assert (rejection.problem_id, rejection.attempt, rejection.left_out) == (pairs[4][0].id, 1, False)
    assert (rejection.reason, rejection.answer) == ("place", "It is \\boxed{X}.")
    re_ask = next(call for call in server.calls if len(call.body["messages"]) == 4)
    assert re_ask.body["messages"][2] == {"role": "assistant", "content": "It is \\boxed{X}."}
    assert "expected <output_image> exactly once, got it 0 times" in re_ask.body["messages"][3]["content"]
    assert (again.examples, again.rejections, again.usage) == (result.examples, result.rejections, result.usage)
    assert (again.this_run["requests"], again.this_run["kept_answers"]) == (0, 13)


def test_a_problem_without_an_acceptable_answer_is_left_out_and_counted(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)
    lost = {pairs[0][0].id, pairs[7][0].id}

    def respond(call: Call) -> None:
        call.reply("I do not know." if good.problem(call).id in lost else good.text(call))

    with chat_server(respond) as server:
        result = teach(server, store, pairs, attempts=2)
    assert [example.problem.id for example in result.examples] == [p.id for p, _ in pairs if p.id not in lost]
    assert [(r.problem_id, r.attempt, r.left_out) for r in result.rejections] == [
        (name, attempt, attempt == 2) for name in (pairs[0][0].id, pairs[7][0].id) for attempt in (1, 2)
    ]


def test_too_few_accepted_problems_end_the_work_as_soon_as_that_is_certain(store: Store, pairs: Pairs) -> None:
    with chat_server(lambda call: call.reply("nonsense")) as server:
        with pytest.raises(TeacherError, match=r"teacher.min_accepted is 80.0%") as caught:
            teach(server, store, pairs, attempts=1, runtime={"concurrency": 1})
        assert len(server.calls) == 3  # of 12 problems: two may be left out, three may not
    assert not caught.value.transient
    assert "place 3" in str(caught.value)
    assert pairs[0][0].id in str(caught.value)


def test_what_the_checks_say_later_costs_nothing_anew(store: Store, pairs: Pairs) -> None:
    with chat_server(GoodTeacher(pairs)) as server:
        teach(server, store, pairs)
        none = teach(server, store, pairs, attempts=1, min_accepted=0, min_thought_chars=5000)
        changed = teach(server, store, pairs, runtime={"concurrency": 1, "requests_per_minute": 1})
        assert len(server.calls) == 12
    assert none.examples == []
    assert {rejection.reason for rejection in none.rejections} == {"length"}
    assert len(changed.examples) == 12


def test_a_failing_endpoint_is_tried_again_and_said(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)
    events = Events()

    def respond(call: Call) -> None:
        failing = {2: 500, 3: 429, 5: 503}
        if call.number in failing:
            call.fail(failing[call.number], retry_after="0")
        elif call.number == 6:
            call.send(200, b'{"choices": [')
        else:
            good(call)

    with chat_server(respond) as server:
        result = teach(server, store, pairs, events, {"tries": 6})
        assert len(server.calls) == 16
    assert len(result.examples) == 12
    assert (result.this_run["requests"], result.this_run["retries"]) == (16, 4)
    assert result.usage["answers"] == 12
    assert "answered 500: out of order: problem" in events.messages
    assert "not JSON" in events.messages


def test_patience_ends_with_a_transient_error_and_what_was_paid_is_kept(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)

    def respond(call: Call) -> None:
        if call.number > 5:
            call.fail(500)
        else:
            good(call)

    with chat_server(respond) as server:
        with pytest.raises(
            EndpointUnavailable, match=r"answered 500.*try 2 for problem .*only the rest is asked"
        ) as caught:
            teach(server, store, pairs, runtime={"tries": 2})
        assert caught.value.transient
        assert len(StoredResponseCache(store, "tiny-teacher")._digests) == 5
        server.respond, before = good, len(server.calls)
        result = teach(server, store, pairs)
        assert len(server.calls) - before == 7
    assert len(result.examples) == 12
    assert result.this_run["kept_answers"] == 5


def asking(server: ChatServer, store: Store, slept: list[float], **runtime: Any) -> CachedClient:
    """A source whose waits are only written down, and move its clock."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    return CachedClient(
        teacher_runtime(server.url, **runtime), None, StoredResponseCache(store, "m"), print, sleep, lambda: sum(slept)
    )


def ask_once(source: CachedClient, pairs: Pairs) -> None:
    prompt = load_prompt("mirage", "cot", "vsp-planning")
    ask = Question(problem=pairs[0][0], prompt=prompt, messages=({"role": "user", "content": "hello"},))
    settings = teacher_settings(min_accepted=0)
    run(
        run_attempts(
            1, lambda number: ask, lambda *_: "fine", source, settings, concurrency=1, on_finished=lambda *_: None
        )
    )


def test_the_wait_grows_with_jitter_up_to_its_cap(store: Store, pairs: Pairs) -> None:
    slept: list[float] = []
    with chat_server(lambda call: call.fail(500)) as server, pytest.raises(EndpointUnavailable):
        ask_once(asking(server, store, slept, tries=6, backoff_s=2.0, backoff_max_s=9.0), pairs)
    assert len(slept) == 5
    for wait, most in zip(slept, (2, 4, 8, 9, 9), strict=True):
        assert most / 2 <= wait <= most


def test_a_retry_after_is_waited_for_and_one_too_long_ends_the_run(store: Store, pairs: Pairs) -> None:
    slept: list[float] = []

    def respond(call: Call) -> None:
        if call.number == 1:
            call.fail(429, retry_after="7")
        else:
            call.reply("well")

    with chat_server(respond) as server:
        ask_once(asking(server, store, slept, backoff_s=0.0), pairs)
        assert len(server.calls) == 2
    assert slept == [7]
    with (
        chat_server(lambda call: call.fail(429, retry_after="7200")) as server,
        pytest.raises(EndpointUnavailable, match=r"asks to wait 7200 s, longer than .*retry_after_max_s"),
    ):
        ask_once(asking(server, Store.open("memory://elsewhere"), slept), pairs)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_what_is_our_fault_costs_one_request_and_one_clear_message(store: Store, pairs: Pairs, status: int) -> None:
    with chat_server(lambda call: call.fail(status)) as server:
        with pytest.raises(EndpointError) as caught:
            teach(server, store, pairs)
        assert len(server.calls) == 1
    assert not caught.value.transient
    assert server.url.split("/")[2] in str(caught.value)


def test_a_single_request_that_is_refused_leaves_its_problem_out(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)

    def respond(call: Call) -> None:
        if good.problem(call) == pairs[3][0]:
            call.fail(400, "this picture is against our rules")
        else:
            good(call)

    with chat_server(respond) as server:
        for _ in range(2):  # also when the refused one is all that is left to ask
            result = teach(server, store, pairs)
            (rejection,) = result.rejections
            assert (rejection.reason, rejection.left_out) == ("refused", True)
            assert "against our rules" in rejection.faults
            assert len(result.examples) == 11


def test_what_was_sent_before_a_failure_is_still_kept(store: Store, pairs: Pairs) -> None:
    good = GoodTeacher(pairs)
    failed = threading.Event()

    def respond(call: Call) -> None:
        if call.number == 3:
            call.fail(401)
            failed.set()
        else:
            assert call.number == 1 or failed.wait(30)
            good(call)

    with chat_server(respond) as server:
        with pytest.raises(EndpointError, match="401"):
            teach(server, store, pairs, runtime={"concurrency": 2})
        assert len(server.calls) == 3
    assert len(store.names("answers/")) == 2


def test_problems_that_are_alike_are_paid_for_once(store: Store, pairs: Pairs) -> None:
    import dataclasses

    problem, image = pairs[0]
    twins = [
        (dataclasses.replace(problem, id=f"twin-{number}"), dataclasses.replace(image, problem_id=f"twin-{number}"))
        for number in range(5)
    ]
    with chat_server(GoodTeacher(pairs)) as server:
        result = teach(server, store, twins)
        assert len(server.calls) == 1
    assert [example.chain.problem_id for example in result.examples] == [problem.id for problem, _ in twins]
    assert result.usage["answers"] == 1


def test_one_chain_at_a_time_can_be_asked_too(store: Store, pairs: Pairs) -> None:
    with chat_server(GoodTeacher(pairs)) as server:
        teacher = make_teacher(teacher_settings(), teacher_runtime(server.url), store)
        assert teacher.chain(*pairs[2], "cot").problem_id == pairs[2][0].id
        server.respond = lambda call: call.reply("no")
        with pytest.raises(TeacherError, match="1 of 1 problems"):
            teacher.chain(*pairs[3], "cot")


def test_the_key_is_read_by_whoever_starts_the_work(store: Store, pairs: Pairs) -> None:
    with chat_server(GoodTeacher(pairs)) as server:
        teach(server, store, pairs[:1])
        with use_key_reader(lambda runtime: SecretStr(" sk-secret\n")):
            teach(server, store, pairs[1:2])
        assert [call.headers.get("authorization") for call in server.calls] == [None, "Bearer sk-secret"]
    with (
        use_key_reader(lambda runtime: SecretStr("two words")),
        pytest.raises(SettingsError, match="OPENAI_API_KEY") as bad,
    ):
        make_teacher(teacher_settings(), teacher_runtime("http://127.0.0.1:1/v1"), store)
    assert "two words" not in str(bad.value)


def test_a_key_over_plain_http_to_another_machine_is_said(store: Store) -> None:
    events: list[str] = []
    with use_key_reader(lambda runtime: SecretStr("sk-secret")):
        for url in ("http://127.0.0.1:1/v1", "https://far.example/v1", "http://far.example/v1"):
            make_teacher(teacher_settings(), teacher_runtime(url), store)._source(events.append)
    assert events == [
        "the key is sent to http://far.example/v1 unencrypted: use https unless you trust every machine between"
    ]


def test_a_replay_gives_the_same_chains_and_asks_nobody(store: Store, pairs: Pairs) -> None:
    with chat_server(GoodTeacher(pairs)) as server:
        result = teach(server, store, pairs)
    recording = str(store.backend.local("answers"))
    for settings, where in (
        (teacher_settings(kind="replay", recording=recording), None),
        (teacher_settings(kind="replay"), store),
    ):
        teacher = make_teacher(settings, TeacherRuntime(), where)
        assert isinstance(teacher, EndpointTeacher)
        again = teacher.teach(pairs, "cot", ignore_progress)
        assert (again.examples, again.usage) == (result.examples, result.usage)
        assert again.this_run["requests"] == 0
    other = make_teacher(teacher_settings(kind="replay", recording=recording, seed=1), TeacherRuntime())
    with pytest.raises(EndpointError, match=rf"{recording} hold no answer to attempt 1 of problem {pairs[0][0].id}"):
        other.chain(*pairs[0], "cot")


def test_something_else_than_chains_can_be_asked_for(store: Store, pairs: Pairs) -> None:
    """Captions, say: any judge of an answer will do."""
    prompt = load_prompt("mirage", "cot", "vsp-planning")

    def question_at(number: int) -> Question:
        return Question(
            problem=pairs[number][0], prompt=prompt, messages=({"role": "user", "content": f"say {number}"},)
        )

    def respond(call: Call) -> None:
        call.reply("hm" if len(call.body["messages"]) == 1 else call.body["messages"][0]["content"])

    with chat_server(respond) as server:
        source = CachedClient(teacher_runtime(server.url), None, StoredResponseCache(store, "m"), print)
        logs = run(
            run_attempts(
                3, question_at,
                lambda problem, answer: answer.text if "say" in answer.text else [Fault("dull", "say more")],
                source, teacher_settings(), concurrency=2, on_finished=lambda *_: None,
            )
        )  # fmt: skip
    assert [log.value for log in logs] == ["say 0", "say 1", "say 2"]
    assert [log.failed[0].faults for log in logs] == [(Fault("dull", "say more"),)] * 3
