"""``mirage serve`` against its own ``decode`` one prompt at a time: throughput and time to first token under load.

``mirage bench serve`` runs it. The server is a process of its own, asked over HTTP on loopback by as many clients as
the concurrency says, each with one connection. All sides answer the same prompts, greedily, in interleaved rounds, and
every reply is compared with the text that ``decode`` gave. Without a model, it is a recipe's with random weights, whose
answers have all the tokens that they may have.

- sequential: this process answers one prompt after the other with ``decode``, picture and words encoded each time.
- whole: replies come as one JSON. stream: as events, which tell the time to the first token of text.
- endpoint: another OpenAI-compatible server that was given, such as vLLM with the same weights, streamed; several are
  numbered, and asked in the same rounds, so that they can be compared with each other.

``ratio`` is requests a second over those of sequential, by the wall clock, ``cpu_ratio`` by the processor time of the
process that decodes and of its children, on which other work on the machine counts less; that of the clients is not
counted.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import Settings, identity
from mirage_core.errors import InputError
from mirage_core.evaluation.endpoint import question_messages
from mirage_core.generation.generator import Generator
from mirage_core.generation.trajectory import output_text
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.serving.process import server_process
from mirage_core.types import Problem, ProgressEvent

CONCURRENCY = (1, 8, 32)
PROMPTS = 96
NAME = "bench"
"""The name under which the server serves."""
_TIMEOUT_S = 600
_TAGS = re.compile(r"</?think>")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: medians over the rounds. ``same``: the share of texts that are those of sequential.

    ``first_token_p50_ms`` and ``first_token_p95_ms``: over the requests of all rounds, None for whole replies;
    ``cpu_ratio``: None for an endpoint whose process is not known.
    """

    case: str
    concurrency: int
    requests_per_s: float
    text_tokens_per_s: float
    ratio: float
    cpu_ratio: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None
    same: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: its text without marks, its text tokens, and the seconds to its first token of text, if known."""

    text: str
    tokens: int
    first_s: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """The answers to all prompts, and the seconds they took: by the wall clock, and of a processor."""

    answers: list[Answered]
    wall_s: float
    cpu_s: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is asked. ``stream``: for events; ``pid``: its process, None where that is not known."""

    case: str
    url: str
    model: str
    stream: bool
    pid: int | None = None
    key: str | None = None


def measure(
    generator: Generator, settings: Settings, serve: Sequence[str], environment: Mapping[str, str], rounds: int,
    on_round: Callable[[int], None], *, prompts: int = PROMPTS, threads: int = 1, others: Sequence[Target] = (),
) -> list[Row]:  # fmt: skip
    """Start the server and measure all sides; ``on_round`` gets the number of each round as it ends.

    ``generator``: of the same model as the command ``serve`` serves, under the name bench; ``settings``: its recipe.
    InputError for numbers below 1.
    """
    if min(rounds, threads, prompts) < 1:
        raise InputError(f"--rounds is {rounds}, --threads {threads}, --prompts {prompts}; all must be 1 or more.")
    problems = planning_problems(settings, prompts)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
            log, own = Path(folder) / "log", {**environment, "OMP_NUM_THREADS": str(threads)}
            with server_process(serve, log, own) as server:
                ours = [Target(case, server.url, NAME, case == "stream", server.pid) for case in ("whole", "stream")]
                return compared([*ours, *others], generator, problems, rounds, on_round)
    finally:
        torch.set_num_threads(before)


def compared(
    targets: Sequence[Target], generator: Generator, problems: Sequence[Problem], rounds: int,
    on_round: Callable[[int], None], concurrency: Sequence[int] = CONCURRENCY,
) -> list[Row]:  # fmt: skip
    """Measure all sides in turn, after one warm-up round."""
    bodies = [json_body(generator, problem) for problem in problems]
    sides: dict[tuple[str, int], Callable[[], Round]] = {("sequential", 1): partial(sequential, generator, problems)}
    for target in targets:
        sides |= {(target.case, clients): partial(asked, target, bodies, clients) for clients in concurrency}
    measured: dict[tuple[str, int], list[Round]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, run in sides.items():
            measured[side].append(run())
        on_round(number)
    kept = {side: results[1:] for side, results in measured.items()}
    return [row_of(case, clients, results, kept["sequential", 1]) for (case, clients), results in kept.items()]


def row_of(case: str, concurrency: int, rounds: Sequence[Round], base: Sequence[Round]) -> Row:
    """The row of these rounds against those of the baseline, round by round."""
    expected = [answer.text for answer in base[0].answers]
    texts = [[answer.text for answer in round_.answers] for round_ in rounds]
    first = sorted(answer.first_s for round_ in rounds for answer in round_.answers if answer.first_s is not None)
    p50, p95 = (round(1e3 * quantile(first, share), 1) if first else None for share in (0.5, 0.95))
    known = [(ours.cpu_s, theirs.cpu_s) for ours, theirs in zip(rounds, base, strict=True)]
    cpu = [theirs / ours for ours, theirs in known if ours is not None and theirs is not None]
    return Row(
        case=case,
        concurrency=concurrency,
        requests_per_s=_median(len(each.answers) / each.wall_s for each in rounds),
        text_tokens_per_s=_median(sum(answer.tokens for answer in each.answers) / each.wall_s for each in rounds),
        ratio=_median(theirs.wall_s / ours.wall_s for ours, theirs in zip(rounds, base, strict=True)),
        cpu_ratio=_median(cpu) if cpu else None,
        first_token_p50_ms=p50,
        first_token_p95_ms=p95,
        same=round(statistics.fmean(a == b for each in texts for a, b in zip(each, expected, strict=True)), 4),
    )


def sequential(generator: Generator, problems: Sequence[Problem]) -> Round:
    """Answer one problem after the other in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = [generator.generate([problem])[0].trajectories[0] for problem in problems]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokenizer, ids = generator.model.processor.tokenizer, generator.model.ids
    texts = [_TAGS.sub("", output_text(tokenizer, ids, answer.token_ids, ())) for answer in answers]
    return Round([Answered(text, len(one.token_ids)) for text, one in zip(texts, answers, strict=True)], wall, cpu)


def asked(target: Target, bodies: Sequence[Mapping[str, Any]], clients: int) -> Round:
    """Ask a server everything, ``clients`` requests at a time."""
    numbers, answers = iter(range(len(bodies))), dict[int, Answered]()
    lock, begin = threading.Lock(), threading.Barrier(clients + 1)

    def client() -> None:
        with ExitStack() as stack:
            connection = stack.enter_context(_Connection(target))
            begin.wait()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                answers[number] = connection.ask({"model": target.model, **bodies[number]})

    process = psutil.Process(target.pid) if target.pid is not None else None
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        begin.wait()
        wall, cpu = time.perf_counter(), processor_time(process)
        for future in running:
            future.result()
        wall = time.perf_counter() - wall
    spent = None if process is None else processor_time(process) - cpu
    return Round([answers[number] for number in range(len(bodies))], wall, spent)


class _Connection:
    """One connection to a server, kept open; a context."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http = kind(parts.netloc, timeout=_TIMEOUT_S)
        self._path, self._stream = f"{parts.path}/chat/completions", target.stream
        self._headers = {"Content-Type": "application/json"}
        if target.key is not None:
            self._headers["Authorization"] = f"Bearer {target.key}"

    def __enter__(self) -> _Connection:
        self._http.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, body: Mapping[str, Any]) -> Answered:
        """Send one request. InputError for any reply but 200."""
        more = {"stream": True, "stream_options": {"include_usage": True}} if self._stream else {}
        since = time.perf_counter()
        self._http.request("POST", self._path, json.dumps({**body, **more}), self._headers)
        reply = self._http.getresponse()
        if reply.status != 200:
            raise InputError(f"the server answered {reply.status}, expected 200: {reply.read(500).decode()}")
        if self._stream:
            return _streamed(reply, since)
        whole = json.loads(reply.read())
        message = whole["choices"][0]["message"]
        return Answered((message.get("reasoning") or "") + message["content"], _text_tokens(whole["usage"]))


def _streamed(reply: http.client.HTTPResponse, since: float) -> Answered:
    """The answer of a stream of events."""
    text, tokens, first = "", 0, None
    while line := reply.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event["choices"]:
            added = (choice["delta"].get("reasoning") or "") + (choice["delta"].get("content") or "")
            if added and first is None:
                first = time.perf_counter() - since
            text += added
        if event.get("usage"):
            tokens = _text_tokens(event["usage"])
    return Answered(text, tokens, first)


def _text_tokens(usage: Mapping[str, Any]) -> int:
    """The completion tokens without latents."""
    latents = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return int(usage["completion_tokens"]) - int(latents)


def processor_time(process: psutil.Process | None) -> float:
    """The seconds of a processor that a process and its children have used; 0 for none."""
    if process is None:
        return 0.0
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def endpoints(urls: Sequence[str], pids: Sequence[int], model: str | None, key: str | None) -> list[Target]:
    """The other servers that are asked, each with its process on this machine where ``pids`` names them.

    InputError for URLs without a model or a model without a URL, and for another number of processes.
    """
    if bool(urls) != (model is not None) or (pids and len(pids) != len(urls)):
        raise InputError(
            f"got {len(urls)} --endpoint, {len(pids)} --endpoint-pid and --endpoint-model {model}: give each endpoint "
            "the model's name, and all of them a process or none"
        )
    names = ["endpoint"] if len(urls) == 1 else [f"endpoint {number}" for number in range(1, len(urls) + 1)]
    known: Sequence[int | None] = pids or [None] * len(urls)
    return [
        Target(name, url, str(model), stream=True, pid=pid, key=key)
        for name, url, pid in zip(names, urls, known, strict=True)
    ]


def json_body(generator: Generator, problem: Problem) -> dict[str, Any]:
    """A request for a greedy answer to a problem, of as many tokens as evaluation allows; its model is left out."""
    form, variant = generator.inference.prompt.form, generator.inference.variant
    messages = [dict(message) for message in question_messages(problem, form, variant, verbatim=True)]
    return {"messages": messages, "max_tokens": generator.decoding.max_new_tokens, "temperature": 0}


def planning_problems(settings: Settings, count: int) -> list[Problem]:
    """Maps of the recipe's levels with a question each, as many of each level."""
    data = settings.problems.vsp_planning
    if data is None:
        raise InputError(f"the recipe {settings.recipe} has no problems of vsp-planning, which the clients ask")
    each = -(-count // len(data.test_levels))
    few = data.model_copy(update={"train": 0, "validation": 0, "test_per_level": each})
    alone = settings.problems.model_copy(update={"vsp_planning": few, "vsp_reasoning": None})
    return generate_problems(alone, settings.seed, _ignore)[:count]


def random_folder(folder: Path, settings: Settings) -> None:
    """Write the recipe's model with random weights, whose answers have a span early and never end early."""
    loaded = build_base_model(settings.model, settings.seed)
    with torch.no_grad():
        weight = loaded.backbone.model.get_output_embeddings().weight
        weight[loaded.ids.latent_start] *= 6
        weight[loaded.ids.end_of_turn] = 0
    one_span = settings.latent.model_copy(update={"max_spans": 1})
    about = {
        "recipe": settings.recipe, "prompt": identity(settings.prompt), "latent": identity(one_span),
        "variant": settings.teacher.variant, "stage": "relaxation",
    }  # fmt: skip
    save_model(folder, loaded.backbone, loaded.processor, about)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of some ordered values lie: the nearest of them."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _median(values: Iterator[float] | Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _ignore(event: ProgressEvent) -> None:
    """Ignore progress."""
