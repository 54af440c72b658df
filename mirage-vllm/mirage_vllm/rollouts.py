"""Answers for GRPO from vLLM: `python -m mirage_vllm.rollouts FOLDER --port 8766`, for the training of this machine.

The trainer (mirage_core.training.grpo.served) pushes its weights as a folder of safetensors before every round, and
asks for answers to prompts of token ids. They come back as one safetensors message, with the log-probability of every
token and the latents that were fed. One engine in this process, one thing at a time; loopback only.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import io
import json
import os
import traceback
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mirage_vllm.settings import ABOUT_FILE, SpanSettings

HOST, NAMES = "127.0.0.1", ("127.0.0.1", "localhost")
MOST_BYTES = 1 << 30
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


class Refused(Exception):
    """A request that cannot be met; the text goes to the client."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Rollouts:
    """An engine of vLLM, the weights that it has, and what it answers."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        """Load the model of ``folder``; ``options``: vLLM's. One worker: latents are read in this process."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM

        self._llm = LLM(
            str(folder), logprobs_mode="processed_logprobs", limit_mm_per_prompt={"video": 0},
            mm_processor_cache_gb=0, **options,
        )  # fmt: skip
        worker: Any = self._llm.llm_engine.engine_core
        state = worker.engine_core.model_executor.driver_worker.worker.model_runner.model_state
        self._state, self._spans = state, _spans(state)
        state.kept = {}
        self._about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        self.weights: str | None = None

    def about(self) -> dict[str, Any]:
        """What a trainer compares with its own model."""
        config = self._llm.llm_engine.model_config
        text, spans = config.hf_text_config, self._spans
        return {
            "latent": self._about.get("latent"),
            "prompt": self._about.get("prompt"),
            "dtype": str(config.dtype).removeprefix("torch."),
            "sizes": {name: getattr(text, name) for name in _SIZES},
            "tokens": {
                "latent_start": spans.start, "latent_pad": spans.pad, "latent_end": spans.end,
                "end_of_turn": spans.end_of_turn,
            },
            "weights": self.weights,
        }  # fmt: skip

    def load(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take the weights of a folder, under a name; what was computed with others is forgotten."""
        folder, name = Path(str(asked.get("folder"))), asked.get("name")
        files = sorted(folder.glob("model*.safetensors"))
        if not isinstance(name, str) or not files:
            raise Refused(f"{folder} holds no model*.safetensors that this machine can read: push to a folder of it")
        self.weights = None
        # Not by its path: vLLM would then look for the processor there, too.
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _tensors(files)})
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()
        self.weights = name
        return {"weights": name}

    def sample(self, asked: dict[str, Any]) -> bytes:
        """Answer prompts, a request a seed; returns a safetensors message (``_message``)."""
        from vllm import SamplingParams

        if self.weights is None or asked["weights"] != self.weights:
            raise Refused(f"the engine has the weights {self.weights}, and {asked['weights']} were asked for", 409)
        prompts, params, expected = [], [], []
        limit = asked["max_new_tokens"]
        extra = {"latents": asked["latents"], "max_text_tokens": limit}
        for one in asked["prompts"]:
            prompt, whole = self._prompt(one), one["ids"]
            for seed in one["seeds"]:
                prompts.append(prompt)
                expected.append(whole)
                params.append(SamplingParams(
                    temperature=asked["temperature"], seed=seed, logprobs=0, detokenize=False, extra_args=extra,
                    max_tokens=limit + 1 + self._spans.most_latents,
                ))  # fmt: skip
        found = self._llm.generate(prompts, params, use_tqdm=False)
        for one, ids in zip(found, expected, strict=True):
            if list(one.prompt_token_ids) != ids:
                raise Refused("vLLM makes other tokens of a picture than the trainer: are the prompt settings equal?")
        return _message(found, self._latents(), self.weights)

    def _prompt(self, one: dict[str, Any]) -> dict[str, Any]:
        """A prompt as vLLM wants it: a single token for each picture, which vLLM repeats."""
        pad, ids = self._llm.llm_engine.model_config.hf_config.image_token_id, one["ids"]
        once = [token for at, token in enumerate(ids) if token != pad or at == 0 or ids[at - 1] != pad]
        try:
            pictures = [Image.open(io.BytesIO(base64.b64decode(part, validate=True))) for part in one["pictures"]]
        except (OSError, binascii.Error) as error:
            raise Refused(f"a picture cannot be read: {error}") from error
        return {"prompt_token_ids": once, **({"multi_modal_data": {"image": pictures}} if pictures else {})}

    def _latents(self) -> dict[str, Tensor]:
        """The latents of the last answers by request; the engine adds letters to the requests' names."""
        for inner in [*self._state.requests]:
            self._state.remove_request(inner)
        kept = {inner.rpartition("-")[0]: latents for inner, latents in self._state.kept.items()}
        self._state.kept.clear()
        return kept


def _tensors(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                yield name, opened.get_tensor(name)


def _spans(state: Any) -> SpanSettings:
    settings: SpanSettings = state.spans.settings
    return settings


def _message(found: Sequence[Any], latents: dict[str, Tensor], weights: str) -> bytes:
    """Answers end to end: ``lengths`` [n], ``tokens`` [m] and ``log_probs`` [m] (latents are tokens), and of those that
    hold latents these [l, D], in order: ``counts`` [n] tells how many are whose."""
    outs = [one.outputs[0] for one in found]
    tokens = [token for out in outs for token in out.token_ids]
    chosen = [step[token].logprob for out in outs for token, step in zip(out.token_ids, out.logprobs, strict=True)]
    fed = [latents[one.request_id].cpu() for one in found]
    tensors = {
        "lengths": torch.tensor([len(out.token_ids) for out in outs]),
        "tokens": torch.tensor(tokens),
        "log_probs": torch.tensor(chosen, dtype=torch.float32),
        "counts": torch.tensor([len(one) for one in fed]),
        "latents": torch.cat(fed).contiguous(),
    }
    return save(tensors, {"weights": weights})


class _Handler(BaseHTTPRequestHandler):
    rollouts: Rollouts

    def do_GET(self) -> None:
        self._answer({"/about": lambda _: self.rollouts.about()})

    def do_POST(self) -> None:
        self._answer({"/load": self.rollouts.load, "/sample": self.rollouts.sample})

    def _answer(self, routes: dict[str, Any]) -> None:
        try:
            if self.headers.get("host", "").partition(":")[0] not in NAMES:
                raise Refused(f"this server is {' or '.join(NAMES)}", 421)
            if self.path not in routes:
                raise Refused(f"no such path: {self.path}, expected {' or '.join(routes)}", 404)
            done = routes[self.path](self._asked())
            status, body = 200, done if isinstance(done, bytes) else json.dumps(done).encode()
        except Refused as error:
            status, body = error.status, json.dumps({"error": str(error)}).encode()
        except Exception as error:  # the trainer is to read why, and this server goes on
            traceback.print_exc()
            status, body = 500, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _asked(self) -> Any:
        length = int(self.headers.get("content-length") or 0)
        if length > MOST_BYTES:
            raise Refused(f"a body of {length} bytes, expected at most {MOST_BYTES}", 413)
        if self.command == "POST" and self.headers.get("content-type") != "application/json":
            raise Refused("expected a body of the type application/json", 415)
        return json.loads(self.rfile.read(length)) if length else {}


def main() -> None:
    """Load the model, and answer until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m mirage_vllm.rollouts", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model folder of the same kind as the one that is trained")
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="further settings of vLLM's LLM")
    arguments = parser.parse_args()
    _Handler.rollouts = Rollouts(arguments.folder, arguments.engine)
    HTTPServer((HOST, arguments.port), _Handler).serve_forever()


if __name__ == "__main__":
    main()
