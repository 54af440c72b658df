"""A model and its engine: a request becomes a job, and the steps of its answers an asynchronous stream."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.errors import DataError
from mirage_core.generation.continuous import ContinuousDecoder, RowSettings, RowStep
from mirage_core.generation.generator import Generator, seeded_numbers
from mirage_core.generation.trajectory import Trajectory, output_text
from mirage_core.latent.examples import EncodedPrompt, no_grids, no_pixels
from mirage_core.llm_client.served_model import ServedModel, ServedSpan, ServedTrajectory
from mirage_core.serving.choices import Choice
from mirage_core.serving.engine import Engine, Job
from mirage_core.serving.film import Film, true_frames
from mirage_core.serving.limits import Busy, RequestError, ServingLimits
from mirage_core.serving.metrics import Metrics
from mirage_core.serving.pictures import PictureCache
from mirage_core.serving.requests import ChatRequest, parse_json, parse_request
from mirage_core.serving.texts import Piece
from mirage_core.types import Problem

Steps = Sequence[tuple[int, RowStep]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, its prompt and the name of it that prompts share which are the same.

    ``other``: the prompt, and its name, with the picture whose latents are asked for; ``film``: draws latents.
    """

    chat: ChatRequest
    prompt: EncodedPrompt
    name: bytes
    other: tuple[EncodedPrompt, bytes] | None
    film: Film | None


@dataclass(frozen=True, slots=True)
class Added:
    """What a step adds to the answer of a number: ``pieces`` of text, and then a ``latent``, or none."""

    number: int
    pieces: list[Piece]
    latent: Tensor | None


class ModelServer:
    """Serves the model of ``generator`` under ``name``, as evaluation uses it: its latents, bans and defaults.

    ``reader``: reads what its latents imagine; None where it has no heads to read them. SettingsError for a model whose
    rows cannot join a running decoding (bottleneck latent_only).
    """

    def __init__(
        self, generator: Generator, name: str, limits: ServingLimits, reader: ImaginationReader | None = None
    ) -> None:
        self.name, self.limits, self.default = name, limits, generator.decoding
        self.created = int(time.time())
        self.generator, self._reader, model = generator, reader, generator.model
        self._tokenizer = model.processor.tokenizer
        ids = model.ids
        self._hidden = frozenset((ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad))
        self.engine = Engine(
            lambda: ContinuousDecoder(model.backbone, ids, generator.decoding, readout=model.readout), limits.rows
        )
        self._waiting = 0
        self._encoding, self._drawing = (ThreadPoolExecutor(1, f"mirage-{name}") for name in ("encoder", "film"))
        self.metrics = Metrics(lambda: self.engine.running, lambda: self._waiting)
        self._pictures = PictureCache(
            model.backbone,
            generator.encoder,
            limits.feature_bytes,
            lambda here: self.metrics.pictures.labels("hit" if here else "miss").inc(),
        )

    def stop(self) -> None:
        """End the threads; what still runs ends with an error."""
        self.engine.stop()
        self._encoding.shutdown()
        self._drawing.shutdown()

    @property
    def imagines(self) -> bool:
        """Whether what its latents imagine can be told."""
        return self._reader is not None

    async def true_film(self, problem: Problem, count: int) -> list[dict[str, Any] | None]:
        """The frames of a problem's true film that ``count`` latents are held to. RequestError without heads."""
        reader = self._reader
        if reader is None:
            raise RequestError(
                f"the model {self.name} has no heads that read what its latents imagine, so no film is beside them"
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._drawing, true_frames, reader, problem, count)

    @property
    def exchanges(self) -> bool:
        """Whether its latents are its own hidden states, so that those of another picture can take their place."""
        return self.default.latents == "on" and self.default.latent_input in ("hidden_state", "code")

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their answers to begin."""
        return self._waiting

    def place(self) -> Place:
        """A place in the queue, to be released when the request runs, or is over. Busy where there is none."""
        if self._waiting >= self.limits.queue:
            raise Busy(self._waiting)
        self._waiting += 1
        return Place(self._leave_queue)

    def _leave_queue(self) -> None:
        self._waiting -= 1

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, as in predictions."""
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    def trajectory(self, choice: Choice) -> ServedTrajectory:
        """All of an answer that the model has ended."""
        answer, model = choice.trajectory, self.generator.model
        assert answer is not None
        return ServedTrajectory(
            output=output_text(model.processor.tokenizer, model.ids, answer.token_ids, answer.spans),
            token_ids=answer.token_ids,
            spans=tuple(ServedSpan(position=span.position, num_latents=span.num_latents) for span in answer.spans),
        )

    def card(self) -> ServedModel:
        """How the model is to be asked to be answered as by its own evaluation."""
        generator, default = self.generator, self.default
        return ServedModel(
            method=generator.method,
            latents=default.latents,
            prompt=generator.inference.prompt.form,
            variant=generator.inference.variant,
            planning_rule=generator.planning_rule,
            max_tokens=min(default.max_new_tokens, self.limits.answer_tokens),
            temperature=default.temperature,
            top_p=default.top_p,
        )

    def choices(self, request: ChatRequest) -> list[Choice]:
        """The answers of a request, empty yet."""
        return [Choice(self.decode, request.stop, self._hidden) for _ in range(request.n)]

    async def prepare(self, body: bytes) -> Asked:
        """Return the request of a JSON body, and its prompt. RequestError for what is refused."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, self._prepare, body)

    def _prepare(self, body: bytes) -> Asked:
        request = parse_request(parse_json(body), self.limits, self.default)
        if request.model != self.name:
            raise RequestError(
                f"got the model {request.model[:100]!r}, expected {self.name!r}", status=404, param="model"
            )
        self._check_extension(request)
        prompt, name = self._prompt(request, request.images, "messages")
        other = None
        if request.latents_of is not None:
            other = self._prompt(request, (request.latents_of,), "mirage.latents_of")
        film = Film(self._reader, prompt, request.images) if request.film and self._reader is not None else None
        return Asked(chat=request, prompt=prompt, name=name, other=other, film=film)

    def _check_extension(self, request: ChatRequest) -> None:
        """RequestError for what this model cannot do."""
        if request.film and not self.imagines:
            raise RequestError(
                f"the model {self.name} has no heads that read what its latents imagine, which film training leaves "
                "in its folder: leave mirage.film out",
                param="mirage.film",
            )
        if request.latents_of is not None and not self.exchanges:
            raise RequestError(
                f"the model {self.name} feeds no hidden states as latents, so those of another picture are its own: "
                "leave mirage.latents_of out",
                param="mirage.latents_of",
            )

    def _prompt(self, request: ChatRequest, images: Sequence[bytes], param: str) -> tuple[EncodedPrompt, bytes]:
        """The prompt with the features of these images, and a name that it shares with the same prompts only.

        RequestError, of the field ``param``, for one that cannot be encoded or is too long.
        """
        try:
            pictures = [self._pictures.open(data) for data in images]
            grids = torch.cat([no_grids(), *(picture.grid for picture in pictures)])
            prompt = self.generator.encoder.conversation(request.messages, no_pixels(), grids)
        except DataError as error:
            raise RequestError(str(error), param=param) from error
        if len(prompt.ids) > self.limits.prompt_tokens:
            raise RequestError(
                f"the prompt has {len(prompt.ids)} tokens, expected at most {self.limits.prompt_tokens} "
                "(--max-prompt-tokens)",
                param=param,
            )
        features = tuple(self._pictures.features(picture) for picture in pictures)
        parts = [prompt.ids.numpy().tobytes(), *(picture.name for picture in pictures)]
        return replace(prompt, image_features=features), hashlib.sha256(b"".join(parts)).digest()

    async def answer(self, asked: Asked, choices: Sequence[Choice], place: Place) -> AsyncGenerator[list[Added], None]:
        """Decode; yields what each step adds to ``choices``, by number, until all have finished.

        Closed before the end, it cancels what is left. RequestError where latents are exchanged and the answer with
        the other picture has none.
        """
        first = True
        try:
            rows = self._rows(asked.chat)
            if asked.other is not None:
                rows = await self._exchanged(asked.other, rows)
            with self._running(asked.prompt, asked.name, rows, place.release) as run:
                while any(choice.finish_reason is None for choice in choices):
                    part = await run.steps()
                    if first:
                        self.metrics.first_token.observe(time.perf_counter() - place.since)
                        first = False
                    added = self._added(run, part, choices)
                    if asked.film is not None:
                        await self._draw(asked.film, added, choices)
                    yield added
            self.metrics.duration.observe(time.perf_counter() - place.since)
        finally:
            place.release()

    async def _exchanged(self, other: tuple[EncodedPrompt, bytes], rows: Sequence[RowSettings]) -> list[RowSettings]:
        """The rows, each with the latents of the answer that it would give to the other prompt."""
        answers: dict[int, Trajectory] = {}
        with self._running(*other, rows, lambda: None) as run:
            while len(answers) < len(rows):
                answers |= {number: step.answer for number, step in await run.steps() if step.answer is not None}
        if not all(answer.latents for answer in answers.values()):
            raise RequestError(
                "with the other picture the model answers without latents, so there are none to exchange: give a "
                "picture that it imagines something about",
                param="mirage.latents_of",
            )
        return [replace(row, latents=torch.cat(answers[number].latents)) for number, row in enumerate(rows)]

    @contextmanager
    def _running(
        self, prompt: EncodedPrompt, name: bytes, rows: Sequence[RowSettings], joined: Callable[[], None]
    ) -> Iterator[Run]:
        """A job, which is cancelled at the end of the block; ``joined``: called when its answers begin to run."""
        run = Run(self.engine, self.metrics, prompt, name, rows, joined)
        try:
            yield run
        finally:
            run.cancel()

    def _added(self, run: Run, part: Steps, choices: Sequence[Choice]) -> list[Added]:
        """What a step adds to choices that have not met a stop word; those that do now are not decoded any further."""
        running = [(number, step) for number, step in part if choices[number].finish_reason is None]
        added = [Added(number, choices[number].add(step), step.latent) for number, step in running]
        for number, step in running:
            if choices[number].finish_reason is not None and step.answer is None:
                run.cancel(number)
        return added

    async def _draw(self, film: Film, added: Sequence[Added], choices: Sequence[Choice]) -> None:
        """Draw the latents of a step, for their choices."""
        loop = asyncio.get_running_loop()
        for one in added:
            if one.latent is not None:
                choice = choices[one.number]
                index, span = len(choice.film), len(choice.spans) - 1
                choice.film.append(await loop.run_in_executor(self._drawing, film.frame, index, span, one.latent))

    def _rows(self, request: ChatRequest) -> list[RowSettings]:
        """The settings of each answer; sampled tokens are decided by (seed, number of the answer) alone."""
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return [
            RowSettings(
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                uniform=seeded_numbers(seed, "", number, request.max_tokens) if request.temperature else None,
                top=request.top_logprobs,
            )
            for number in range(request.n)
        ]


class Run:
    """A job in the engine, and the steps of its answers as they come."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        prompt: EncodedPrompt,
        name: bytes,
        rows: Sequence[RowSettings],
        joined: Callable[[], None],
    ) -> None:
        loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Steps | Exception]()
        self._engine, self._metrics = engine, metrics

        def deliver(part: Steps | Exception) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, part)

        def begun() -> None:
            loop.call_soon_threadsafe(joined)

        self._job = Job(prompt, rows, deliver, begun, name)
        engine.submit(self._job)
        metrics.prompt_tokens.inc(len(prompt.ids))

    async def steps(self) -> Steps:
        """Wait for the next steps, by the numbers of the answers. Raises what ended the job instead."""
        part = await self._queue.get()
        if isinstance(part, Exception):
            raise part
        latents = sum(step.is_latent for _, step in part)
        self._metrics.latents.inc(latents)
        self._metrics.text_tokens.inc(len(part) - latents)
        return part

    def cancel(self, number: int | None = None) -> None:
        """Drop all answers that have not ended, or that of a number."""
        self._engine.cancel(self._job, number)


class Place:
    """One place in a queue; ``free`` gives it to others. ``since``: when it was taken, in seconds."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free: Callable[[], None] | None = free
        self.since = time.perf_counter()

    def release(self) -> None:
        """Free the place; again: nothing."""
        free, self._free = self._free, None
        if free is not None:
            free()
