"""A server that answers GRPO as mirage_vllm.rollouts does, from the decoder here, with the weights it is given."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mirage_core.config import InferenceSettings
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.types import Problem
from tests.training.small_world import small_settings


class DecodingEngine:
    """Answers problems that it knows by their picture and prompt; ``pushed``: the names of the weights it was given."""

    def __init__(self, folder: Path, problems: list[Problem], work: Path, **about: Any) -> None:
        self._folder = shutil.copytree(folder, work / "engine")
        self._changed, self._problems, self.pushed = about, problems, list[str]()
        self._load()

    def about(self, _: Any = None) -> dict[str, Any]:
        config, ids = self.model.backbone.model.config.get_text_config(), self.model.ids
        sizes = (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size",
        )  # fmt: skip
        tokens = ("latent_start", "latent_pad", "latent_end", "end_of_turn")
        return {
            "latent": self.model.about["latent"],
            "prompt": self.model.about["prompt"],
            "dtype": "float32",
            "sizes": {name: getattr(config, name) for name in sizes},
            "tokens": {name: getattr(ids, name) for name in tokens},
            **self._changed,
        }

    def load(self, asked: dict[str, Any]) -> dict[str, Any]:
        for file in Path(asked["folder"]).glob("model*.safetensors"):
            shutil.copy(file, self._folder)
        self._load()
        self.pushed.append(asked["name"])
        return {}

    def sample(self, asked: dict[str, Any]) -> bytes:
        assert asked["weights"] == self.pushed[-1]
        answers = [
            self._answer(self._prompt(one), seed, asked) for one in asked["prompts"] for seed in one["seeds"]
        ]  # fmt: skip
        pad = self.model.ids.latent_pad
        rows = [engine_tokens(answer, pad, self.model.ids.end_of_turn) for answer in answers]
        return save(
            {
                "lengths": torch.tensor([len(row) for row in rows]),
                "tokens": torch.tensor([token for row in rows for token, _ in row]),
                "log_probs": torch.tensor([value for row in rows for _, value in row], dtype=torch.float32),
                "counts": torch.tensor([sum(token == pad for token, _ in row) for row in rows]),
                "latents": torch.cat([torch.zeros(0, 64), *(span for one in answers for span in one.latents)]),
            }
        )

    def _load(self) -> None:
        self.model: LoadedModel = load_model(self._folder)
        self.model.backbone.eval()

    def _prompt(self, one: dict[str, Any]) -> EncodedPrompt:
        inference = InferenceSettings.from_metadata(self.model.about, small_settings())
        encoder = Encoder(self.model.processor, inference.latent, inference.prompt, inference.variant)
        known = [
            problem for problem in self._problems
            if [base64.b64encode(picture).decode() for picture in problem.images] == one["pictures"]
        ]  # fmt: skip
        prompts = [encoder.prompt(problem) for problem in known]
        return next(prompt for prompt in prompts if prompt.ids.tolist() == one["ids"])

    def _answer(self, prompt: EncodedPrompt, seed: int, asked: dict[str, Any]) -> Trajectory:
        latent = InferenceSettings.from_metadata(self.model.about, small_settings()).latent
        settings = DecodeSettings.of(
            latent, max_new_tokens=asked["max_new_tokens"], temperature=asked["temperature"], latents=asked["latents"]
        )
        numbers = numbers_of(seed, settings.max_new_tokens) if asked["temperature"] else None
        return decode(self.model.backbone, [prompt], self.model.ids, settings, uniform=numbers)[0][0]


def numbers_of(seed: int, length: int) -> torch.Tensor:
    """What decides the tokens of one seed [1, length]."""
    return torch.rand(1, length, generator=torch.Generator().manual_seed(seed))


def engine_tokens(answer: Trajectory, pad: int, end_of_turn: int) -> list[tuple[int, float]]:
    """The tokens of an answer as an engine has them, a pad a latent and the end of turn after a cut one."""
    spans = {span.position: span.num_latents for span in answer.spans}
    row: list[tuple[int, float]] = []
    for at, token in enumerate(answer.token_ids):
        row += [(pad, 0.0)] * spans.get(at, 0) + [(token, answer.log_probs[at])]
    return row if answer.finished else [*row, (end_of_turn, 0.0)]


@contextmanager
def served(engine: Any) -> Iterator[str]:
    """The address at which an engine answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(engine.about)

        def do_POST(self) -> None:
            self._answer({"/load": engine.load, "/sample": engine.sample}[self.path])

        def _answer(self, call: Any) -> None:
            length = int(self.headers.get("content-length") or 0)
            done = call(json.loads(self.rfile.read(length)) if length else {})
            body = done if isinstance(done, bytes) else json.dumps(done).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
