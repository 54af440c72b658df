"""A model and its engine: a request becomes a job, and the steps of its answers an asynchronous stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mirage_core.errors import DataError
from mirage_core.generation.continuous import ContinuousDecoder, RowSettings, RowStep
from mirage_core.generation.generator import Generator, seeded_numbers
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.llm_client.served_model import ServedModel, ServedSpan, ServedTrajectory
from mirage_core.serving.choices import Choice
from mirage_core.serving.engine import Engine, Job
from mirage_core.serving.limits import Busy, RequestError, ServingLimits
from mirage_core.serving.metrics import Metrics
from mirage_core.serving.requests import ChatRequest, parse_json, parse_request
from mirage_core.serving.texts import Piece

Delivered = Sequence[tuple[int, RowStep]] | Exception


class ModelServer:
    """Serves the model of ``generator`` under ``name``, as evaluation uses it: its latents, bans and defaults.

    SettingsError for a model whose rows cannot join a running decoding (bottleneck latent_only).
    """

    def __init__(self, generator: Generator, name: str, limits: ServingLimits) -> None:
        self.name, self.limits, self.default = name, limits, generator.decoding
        self.created = int(time.time())
        self._generator, model = generator, generator.model
        self._tokenizer = model.processor.tokenizer
        ids = model.ids
        self._hidden = frozenset((ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad))
        self.engine = Engine(
            lambda: ContinuousDecoder(model.backbone, ids, generator.decoding, readout=model.readout), limits.rows
        )
        self._waiting = 0
        self._encoding = ThreadPoolExecutor(1, "mirage-encoder")
        self.metrics = Metrics(lambda: self.engine.running, lambda: self._waiting)

    def stop(self) -> None:
        """End the threads; what still runs ends with an error."""
        self.engine.stop()
        self._encoding.shutdown()

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
        answer, model = choice.trajectory, self._generator.model
        assert answer is not None
        return ServedTrajectory(
            output=output_text(model.processor.tokenizer, model.ids, answer.token_ids, answer.spans),
            token_ids=answer.token_ids,
            spans=tuple(ServedSpan(position=span.position, num_latents=span.num_latents) for span in answer.spans),
        )

    def card(self) -> ServedModel:
        """How the model is to be asked to be answered as by its own evaluation."""
        generator, default = self._generator, self.default
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

    async def prepare(self, body: bytes) -> tuple[ChatRequest, EncodedPrompt]:
        """The request of a JSON body, and its prompt. RequestError for what is refused."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, self._prepare, body)

    def _prepare(self, body: bytes) -> tuple[ChatRequest, EncodedPrompt]:
        request = parse_request(parse_json(body), self.limits, self.default)
        if request.model != self.name:
            raise RequestError(
                f"got the model {request.model[:100]!r}, expected {self.name!r}", status=404, param="model"
            )
        try:
            prompt = self._generator.encoder.conversation(request.messages, request.images)
        except DataError as error:
            raise RequestError(str(error), param="messages") from error
        if len(prompt.ids) > self.limits.prompt_tokens:
            raise RequestError(
                f"the prompt has {len(prompt.ids)} tokens, expected at most {self.limits.prompt_tokens} "
                "(--max-prompt-tokens)",
                param="messages",
            )
        return request, prompt

    async def answer(
        self, request: ChatRequest, prompt: EncodedPrompt, choices: Sequence[Choice], place: Place
    ) -> AsyncGenerator[list[tuple[int, list[Piece]]], None]:
        """Decode; yields what each step adds to the text of ``choices``, by number, until all have finished.

        Closed before the end, it cancels what is left.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Delivered]()

        def deliver(part: Delivered) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, part)

        def joined() -> None:
            loop.call_soon_threadsafe(place.release)

        job, first = Job(prompt, self._rows(request), deliver, joined), True
        try:
            self.engine.submit(job)
            self.metrics.prompt_tokens.inc(len(prompt.ids))
            while any(choice.finish_reason is None for choice in choices):
                part = await queue.get()
                if isinstance(part, Exception):
                    raise part
                if first:
                    self.metrics.first_token.observe(time.perf_counter() - place.since)
                    first = False
                yield self._added(job, part, choices)
            self.metrics.duration.observe(time.perf_counter() - place.since)
        finally:
            place.release()
            self.engine.cancel(job)

    def _added(
        self, job: Job, part: Sequence[tuple[int, RowStep]], choices: Sequence[Choice]
    ) -> list[tuple[int, list[Piece]]]:
        """What a step adds to choices that have not met a stop word; those that do now are not decoded any further."""
        latents = sum(step.is_latent for _, step in part)
        self.metrics.latents.inc(latents)
        self.metrics.text_tokens.inc(len(part) - latents)
        running = [(number, step) for number, step in part if choices[number].finish_reason is None]
        added = [(number, choices[number].add(step)) for number, step in running]
        for number, step in running:
            if choices[number].finish_reason is not None and step.answer is None:
                self.engine.cancel(job, number)
        return added

    def _rows(self, request: ChatRequest) -> list[RowSettings]:
        """The settings of each answer; sampled tokens are decided by (seed, number of the answer) alone."""
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return [
            RowSettings(
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                uniform=seeded_numbers(seed, "", number, request.max_tokens) if request.temperature else None,
            )
            for number in range(request.n)
        ]


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
