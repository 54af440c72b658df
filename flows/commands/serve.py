"""``mirage serve``: load a model, listen, and answer until SIGTERM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from flows.commands.printing import print_line
from flows.trained import Checkpoint, find_checkpoint
from mirage_core.errors import InputError
from mirage_core.serving.limits import ServingLimits
from tasks.paths import open_store

if TYPE_CHECKING:
    from mirage_core.generation.generator import Generator


def read_key(key: str | None, file: Path | None) -> SecretStr | None:
    """Return the key that clients must send, or None. InputError for an empty one, and for two."""
    if file is None:
        text = key
    elif key is not None:
        raise InputError("got --api-key (or MIRAGE_API_KEY) and --api-key-file: give one of them")
    else:
        text = file.read_text(encoding="utf-8").strip()
    if text is not None and not text.strip():
        raise InputError("the key is empty: give one of some length, for example that of `openssl rand -hex 32`")
    return None if text is None else SecretStr(text.strip())


def serve(
    reference: str | None,
    method: str | None,
    store: str | None,
    host: str,
    port: int,
    *,
    key: SecretStr | None,
    name: str | None,
    drain_s: int,
    limits: ServingLimits,
) -> None:
    """Serve a model until SIGTERM or SIGINT; running answers then get ``drain_s`` seconds to end."""
    import uvicorn

    from mirage_core.analysis.imagined.reading import ImaginationReader
    from mirage_core.serving.app import LOOPBACK, check_host, make_app
    from mirage_core.serving.connections import TimelyH11Protocol
    from mirage_core.serving.server import ModelServer

    check_host(host, key)
    checkpoint = find_checkpoint(reference, method, open_store(store))
    generator = generator_of(checkpoint)
    reader = ImaginationReader.of(checkpoint.folder, generator.model, checkpoint.settings)
    server = ModelServer(generator, name or Path(checkpoint.name).name, limits, reader)
    app = make_app(server, key, local=key is None, problems=checkpoint.settings.problems)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, http=TimelyH11Protocol, ws="none",
        server_header=False, timeout_graceful_shutdown=drain_s, h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    listening = config.bind_socket()
    listening.listen(config.backlog)  # who reads the line below can connect
    address = f"http://{host if host in LOOPBACK else listening.getsockname()[0]}:{listening.getsockname()[1]}/v1"
    guarded = "a key is needed" if key is not None else "for this machine only"
    print_line(f"{server.name} ({checkpoint.method}) at {address}, {guarded}")
    uvicorn.Server(config).run(sockets=[listening])


def generator_of(checkpoint: Checkpoint) -> Generator:
    """Load a model on this process's device, to answer as evaluation does."""
    from mirage_core.distributed.collectives import process_device
    from mirage_core.generation.generator import Generator
    from mirage_core.methods import get_method
    from mirage_core.model.loading import load_model

    model, method = checkpoint.settings.model, checkpoint.method
    loaded = load_model(checkpoint.folder, dtype=model.dtype, attention=model.attention, device=process_device())
    return Generator.for_evaluation(loaded, checkpoint.settings, method=method, latents=get_method(method).latents)


def serve_command(model: str, *options: str) -> list[str]:
    """Return the words that start a server of a model at a free port of this machine."""
    return [sys.executable, "-m", "mirage_app", "serve", model, "--port", "0", *options]
