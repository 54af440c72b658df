"""The field ``mirage`` of a request: what latents imagine, where they are, and the latents of another picture."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from openai.lib.streaming._deltas import accumulate_delta
from PIL import Image

from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.intervened_generation import replace_latents
from mirage_core.config import Settings
from mirage_core.generation.decode import Trajectory, decode
from mirage_core.generation.generator import Generator, seeded_numbers
from mirage_core.generation.interventions import Interventions
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.reports.film_strip import step_words
from mirage_core.serving.app import make_app
from mirage_core.serving.limits import ServingLimits
from mirage_core.serving.server import ModelServer
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, picture_bytes, render
from tests.serving.conftest import make_heads
from tests.serving.test_requests import image

CELL_PX = 28  # the recipe's that folders without one are taken to be of
MAZES = (
    Maze(((1, 0, -1), (0, 0, 0), (-1, 0, 2))),
    Maze(((2, 0, 0), (0, -1, 0), (0, 0, 1))),
    Maze(((0, -1, 0, 0), (1, 0, 0, 2), (0, 0, -1, 0), (0, 0, 0, 0))),
)
PICTURES = tuple(picture_bytes(render(maze, CELL_PX)) for maze in MAZES)
HEADS = {"cells": {"where": "cell", "what": "kind"}, "pointer": {"where": "pointer", "weight_what": 0}}


def uri(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(PICTURES[number]).decode()


def asked(number: int, **fields: Any) -> dict[str, Any]:
    """A planning question about a picture, in the words of the model's short prompt."""
    content = [image(uri(number)), {"type": "text", "text": "\nPlan:"}]
    return {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 24, **fields}


def prompt(generator: Generator, number: int) -> EncodedPrompt:
    parts = [{"type": "image"}, {"type": "text", "text": "\nPlan:"}]
    return generator.encoder.conversation(
        [{"role": "user", "content": parts}], *generator.encoder.pixels([PICTURES[number]], "a picture")
    )


def decoded(generator: Generator, number: int, *, given: torch.Tensor | None = None, seed: int | None) -> Trajectory:
    """What ``decode`` gives; ``given`` [m, D]: latents that analysis feeds in place of its own."""
    model, uniform = generator.model, None if seed is None else seeded_numbers(seed, "", 0, 24)[None]
    settings = replace(generator.decoding, max_new_tokens=24, temperature=0.0 if seed is None else 1.0)
    changes = None if given is None else Interventions(latents=replace_latents(given[None], np.array([0])))
    return decode(
        model.backbone, [prompt(generator, number)], model.ids, settings, uniform=uniform, interventions=changes
    )[0][0]


def text(generator: Generator, one: Trajectory) -> str:
    ids = generator.model.ids
    hidden = (ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad)
    kept = [token for token in one.token_ids if token not in hidden]
    return str(generator.model.processor.tokenizer.decode(kept, clean_up_tokenization_spaces=False))


@pytest.fixture
def client(generator: Generator) -> Iterator[TestClient]:
    """A server of a model without heads."""
    server = ModelServer(generator, "m", ServingLimits(rows=4, choices=4, pictures=2))
    with TestClient(make_app(server, None, local=False)) as made:
        yield made


@pytest.fixture(params=list(HEADS))
def reader(
    request: pytest.FixtureRequest, generator: Generator, settings: Settings, tmp_path: Path
) -> ImaginationReader:
    folder = make_heads(tmp_path / "heads", **HEADS[request.param])
    made = ImaginationReader.of(folder, generator.model, settings)
    assert made is not None
    return made


def ask(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    """The message of the one choice."""
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    message: dict[str, Any] = reply.json()["choices"][0]["message"]
    return message


def streamed(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    """The message that the deltas of a stream add up to, as OpenAI's client adds them."""
    reply = client.post("/v1/chat/completions", json={**body, "stream": True})
    message: dict[Any, Any] = {}
    for line in reply.text.split("\n\n")[:-2]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            accumulate_delta(message, choice["delta"])
    return message


def test_the_film_is_what_the_heads_read_off_the_latents(generator: Generator, reader: ImaginationReader) -> None:
    server = ModelServer(generator, "m", ServingLimits(rows=4, choices=4), reader)
    with TestClient(make_app(server, None, local=False)) as client:
        spans = []
        for number, seed in ((0, 0), (2, 1), (2, 3), (1, 2)):
            body = asked(number, mirage={"film": True}, temperature=1.0, seed=seed)
            found, one = ask(client, body), decoded(generator, number, seed=seed)
            check_film(found["film"], expected_film(reader, one, number), one)
            assert streamed(client, body).get("film", []) == found["film"]
            spans.append(len(one.spans))
        assert sum(spans) > 3 and max(spans) > 1


def expected_film(reader: ImaginationReader, one: Trajectory, number: int) -> list[Any]:
    """What ``mirage answer`` reads off each span, for a problem with this picture."""
    maze = MAZES[number]
    problem = Problem(
        id="p", benchmark="vsp-planning", split="test", group="own", question="<image>\nPlan:",
        images=(PICTURES[number],), answer="", facts={"map": maze.rows()},
    )  # fmt: skip
    return [step for span in one.latents for step in reader.read([problem], [span])[0]]


def check_film(found: list[dict[str, Any]], expected: list[Any], one: Trajectory) -> None:
    assert [frame["index"] for frame in found] == list(range(len(expected)))
    spans = [at for at, span in enumerate(one.spans) for _ in range(span.num_latents)]
    assert [frame["span"] for frame in found] == spans
    for frame, step in zip(found, expected, strict=True):
        untold = step.model_copy(update={"true_places": (), "true_kind": None})
        assert frame["caption"] == step_words(untold)
        assert tuple(frame["place"]) == step.place
        assert frame["shape"] == [len(step.places), len(step.places[0])]
        cells = {(cell["row"], cell["column"]): cell["probability"] for cell in frame["cells"]}
        likely = {
            (row, column): value
            for row, line in enumerate(step.places)
            for column, value in enumerate(line)
            if value >= 0.01
        }
        assert cells == pytest.approx(likely, abs=2e-4)
        assert list(cells.values()) == sorted(cells.values(), reverse=True)
        assert [kind["name"] for kind in frame.get("kinds", [])] == [kind.name for kind in step.kinds]
        picture = base64.b64decode(frame["picture"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(picture)).size == (144, 144) and len(picture) < 20_000


def test_a_film_of_words_alone_has_no_picture(generator: Generator, reader: ImaginationReader) -> None:
    server = ModelServer(generator, "m", ServingLimits(rows=4, choices=4), reader)
    body = {**asked(0, mirage={"film": True}), "messages": [{"role": "user", "content": "Where?"}]}
    with TestClient(make_app(server, None, local=False)) as client:
        film = [frame for seed in range(6) for frame in ask(client, {**body, "temperature": 1.5, "seed": seed})["film"]]
    assert film and all("picture" not in frame for frame in film)


def test_spans_are_told_in_their_places(client: TestClient, generator: Generator) -> None:
    seen = 0
    for seed in range(4):
        body = asked(1, mirage={"spans": True}, temperature=1.0, seed=seed)
        message, one = ask(client, body), decoded(generator, 1, seed=seed)
        before = [text(generator, replace(one, token_ids=one.token_ids[: span.position])) for span in one.spans]
        assert [span["latents"] for span in message["spans"]] == [span.num_latents for span in one.spans]
        assert [span["content"] + span["reasoning"] for span in message["spans"]] == [len(part) for part in before]
        assert streamed(client, body).get("spans", []) == message["spans"]
        seen += sum(bool(part) for part in before)
    assert seen > 2


def test_nothing_of_it_is_told_unasked(client: TestClient) -> None:
    message = ask(client, asked(0))
    assert "film" not in message and "spans" not in message


@pytest.mark.parametrize("sampled", [False, True])
def test_an_exchange_feeds_the_latents_of_the_other_picture(
    client: TestClient, generator: Generator, sampled: bool
) -> None:
    changed = exchanges = 0
    for number, other, at in ((0, 1, 0), (1, 2, 1), (2, 0, 2), (0, 2, 3), (2, 1, 4), (1, 0, 5)):
        seed = at if sampled else None
        fields = {"temperature": 1.0, "seed": seed} if sampled else {}
        body = asked(number, mirage={"latents_of": {"image_url": {"url": uri(other)}}}, **fields)
        theirs = decoded(generator, other, seed=seed)
        if not theirs.latents:
            assert client.post("/v1/chat/completions", json=body).status_code == 400
            continue
        exchanges += 1
        expected = decoded(generator, number, given=torch.cat(theirs.latents), seed=seed)
        message = ask(client, body)
        assert message["content"] == text(generator, expected)
        assert message["latents"] == [span.num_latents for span in expected.spans]
        assert streamed(client, body)["content"] == message["content"]
        changed += expected.token_ids != decoded(generator, number, seed=seed).token_ids
    assert exchanges > 1 and changed


def test_several_answers_are_exchanged_one_by_one(client: TestClient, generator: Generator) -> None:
    fields = {"mirage": {"latents_of": {"image_url": {"url": uri(1)}}}, "temperature": 1.0, "seed": 3}
    reply = client.post("/v1/chat/completions", json=asked(0, n=3, **fields)).json()
    contents = [choice["message"]["content"] for choice in reply["choices"]]
    assert contents[0] == ask(client, asked(0, **fields))["content"]
    assert len(set(contents)) == 3


def test_a_client_that_leaves_while_the_other_picture_is_asked_about_frees_its_rows(generator: Generator) -> None:
    server = ModelServer(generator, "m", ServingLimits(rows=8))
    exchange = {"latents_of": {"image_url": {"url": uri(1)}}}
    body = asked(0, mirage=exchange, max_tokens=4000, temperature=2.0, seed=1, n=8)

    async def leave() -> None:
        place = server.place()
        request = await server.prepare(json.dumps(body).encode())
        steps = server.answer(request, server.choices(request.chat), place)
        waiting = asyncio.ensure_future(anext(steps))
        while not server.engine.running:
            await asyncio.sleep(0.01)
        assert server.waiting == 1  # it has not begun to run itself
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await steps.aclose()
        while server.engine.running:
            await asyncio.sleep(0.01)
        assert server.waiting == 0

    server.engine.start()
    try:
        asyncio.run(asyncio.wait_for(leave(), 60))
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("mirage", "words"),
    [
        ({"film": True}, "no heads"),
        ({"film": 1}, "film"),
        ({"dream": True}, "dream"),
        ({"latents_of": {"image_url": {"url": "http://127.0.0.1/x.png"}}}, "fetches no URL"),
        ({"latents_of": uri(0)}, "latents_of"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(client: TestClient, mirage: Any, words: str) -> None:
    reply = client.post("/v1/chat/completions", json=asked(0, mirage=mirage))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert words in error["message"] and error["param"].startswith("mirage.")


def test_an_exchange_needs_one_picture_and_latents_on_both_sides(client: TestClient, generator: Generator) -> None:
    mirage = {"latents_of": {"image_url": {"url": uri(1)}}}
    two = asked(0, mirage=mirage)
    two["messages"][0]["content"].append(image(uri(2)))
    none = {**asked(0, mirage=mirage), "messages": [{"role": "user", "content": "Where?"}]}
    for body in (two, none):
        assert "expected the one" in client.post("/v1/chat/completions", json=body).json()["error"]["message"]
    silent = asked(0, mirage=mirage, max_tokens=1, temperature=1.0, seed=0)
    reply = client.post("/v1/chat/completions", json=silent)  # its one token begins no latent
    assert reply.status_code == 400 and "without latents" in reply.json()["error"]["message"]


def test_models_whose_latents_are_tokens_have_none_to_exchange(generator: Generator) -> None:
    blank = Generator.__new__(Generator)
    blank.__dict__.update(generator.__dict__)
    blank.decoding = replace(generator.decoding, latent_input="blank")
    with TestClient(make_app(ModelServer(blank, "m", ServingLimits()), None, local=False)) as client:
        body = asked(0, mirage={"latents_of": {"image_url": {"url": uri(1)}}})
        assert "no hidden states" in client.post("/v1/chat/completions", json=body).json()["error"]["message"]
