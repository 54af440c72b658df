"""Settings of how and where work runs; never part of a fingerprint."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from mirage_core.config.section import Positive, Section, StageName


class TeacherRuntime(Section):
    """How to reach the teacher's endpoint. The key is never a setting, only its location."""

    base_url: str | None = Field(
        None, description="The endpoint: http(s)://host[:port]/v1, without credentials, query or fragment."
    )
    api_key_variable: str = Field(
        "OPENAI_API_KEY", pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="The environment variable with the key."
    )
    api_key_block: str | None = Field(None, min_length=1, description="A Prefect Secret block with the key instead.")
    concurrency: int = Field(8, gt=0, le=256, description="Concurrent requests.")
    requests_per_minute: int | None = Field(None, gt=0, description="Most requests in any minute; None: no limit.")
    tokens_per_minute: int | None = Field(None, gt=0, description="Most tokens in any minute; None: no limit.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest time to connect.")
    timeout_s: float = Field(300.0, gt=0, description="Longest time from a request to the last byte of its answer.")
    tries: Positive = Field(6, description="Attempts of a request before giving up.")
    backoff_s: float = Field(1.0, ge=0, description="First wait after a failure; doubles each time, with jitter.")
    backoff_max_s: float = Field(60.0, ge=0, description="Longest such wait.")
    retry_after_max_s: float = Field(
        900.0, ge=0, description="Longest accepted Retry-After; a longer one ends the run."
    )
    max_answer_bytes: int = Field(2**20, ge=1024, description="Larger answers are aborted.")
    price_prompt: float = Field(0.0, ge=0, description="Price of a million prompt tokens, in any currency.")
    price_completion: float = Field(0.0, ge=0, description="Price of a million completion tokens, in the same.")

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str | None) -> str | None:
        return None if url is None else plain_url(url)


class RuntimeSettings(Section):
    """How and where work runs. Never part of a fingerprint."""

    engine: Literal["deepspeed", "plain"] = Field(
        "deepspeed", description="plain: torch only, no DeepSpeed; same losses."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="DeepSpeed shards the optimizer (1), also the gradients (2), also the weights (3)."
    )
    offload_optimizer: bool = Field(False, description="Keep and step the optimizer in main memory (ZeRO 1 to 3).")
    offload_parameters: bool = Field(False, description="Keep weights in main memory until needed (ZeRO-3).")
    offload_reference: bool = Field(
        False, description="Keep GRPO's reference model in main memory while the policy samples and learns."
    )
    fused_optimizer: bool = Field(True, description="AdamW in one kernel on a GPU; equal up to rounding.")
    fused: bool = Field(
        False,
        description="Run passes of one token a row (latents, decoding) in a third of the operations, for GPUs; equal "
        "up to rounding (docs/latent-engine.md).",
    )
    portable_math: bool = Field(
        False,
        description="The same bits on every x86 CPU with AVX2, Intel or AMD, with the same processes and threads; "
        "training takes up to twice as long (docs/measurements.md). GPUs: no effect.",
    )
    processes: Positive = Field(2, description="Training and evaluation processes of each machine.")
    launcher: Literal["direct", "torchrun", "deepspeed"] = Field(
        "direct", description="What starts the processes: this program, torchrun, or DeepSpeed's launcher."
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Machines that train together, reached by ssh, this one first, sharing the store, its cache and "
        "TMPDIR (docs/several-hosts.md); empty: this one alone.",
    )
    master_port: int = Field(29500, gt=0, lt=65536, description="Port of the rendezvous of several hosts.")
    threads: Positive = Field(1, description="CPU threads of a process.")
    checkpoint_every: Positive = Field(50, description="Optimizer steps between checkpoints.")
    keep_checkpoints: Positive = Field(
        2, description="Newest checkpoints kept in the store while a stage trains; several survive a damaged one."
    )
    async_checkpoints: bool = Field(True, description="Continue training while a checkpoint is written and uploaded.")
    generation_batch_size: int | None = Field(
        None, gt=0, description="Answers that a GRPO process samples at once; None: all of a step."
    )
    rollouts_url: str | None = Field(
        None,
        description="Where `python -m mirage_vllm.rollouts` listens, on this machine (grpo.rollouts served): "
        "http://127.0.0.1:8766.",
    )
    shutdown_grace_s: Positive = Field(300, description="Longest time for a last step and checkpoint after SIGTERM.")
    tensorboard: str | None = Field(None, description="A folder for TensorBoard, with a subfolder for each stage.")
    timeout_s: Positive = Field(6 * 3600, description="Time limit of a stage that timeouts does not name.")
    timeouts: dict[StageName, Positive] = Field(
        default_factory=dict, description="Time limits of stages in seconds: {relaxation: 3600}."
    )
    stall_timeout_s: Positive = Field(900, description="Longest time without progress of a training process.")
    teacher: TeacherRuntime = TeacherRuntime()
    scene_batch_size: Positive = Field(1, description="Scenes that CogVideoX renders at once.")
    scene_offload: Literal["none", "model", "sequential"] = Field(
        "none", description="Keep CogVideoX's modules off the GPU until they are needed: slower, 5B in 16 or 5 GiB."
    )

    @field_validator("rollouts_url")
    @classmethod
    def _is_of_this_machine(cls, url: str | None) -> str | None:
        """Weights are pushed as files of this machine, and the engine asks for no key."""
        if url is not None and urlsplit(plain_url(url)).hostname not in ("127.0.0.1", "localhost"):
            raise ValueError("expected an address of this machine, such as http://127.0.0.1:8766")
        return url

    @property
    def world_size(self) -> int:
        """Processes of a training, over all machines."""
        return self.processes * max(1, len(self.hosts))

    def for_stage(self, name: str) -> RuntimeSettings:
        """Return these settings with the time limit of one stage."""
        chosen = {str(stage): seconds for stage, seconds in self.timeouts.items()}.get(name, self.timeout_s)
        return self.model_copy(update={"timeout_s": chosen, "timeouts": {}})

    stages_at_once: Positive = Field(
        1,
        description="Stages that run side by side where their inputs allow: each needs its own memory and cores; those "
        "of one run share a GPU.",
    )
    shards: Positive = Field(1, description="Shards of image drawing, teacher chains and evaluations, run in parallel.")
    task_runner: Literal["threads", "dask"] = Field(
        "threads", description="What runs the shards of a Prefect run: threads of the flow's process, or Dask workers."
    )
    dask_address: str | None = Field(
        None, description="A Dask scheduler (tcp://host:8786); None: a local cluster of `shards` workers."
    )


def plain_url(url: str) -> str:
    """Check for an http(s) URL without credentials, query or fragment; the ValueError never shows the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("expected a URL such as http://127.0.0.1:8000/v1") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected http:// or https:// and a host, such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("expected no credentials in the URL: the key belongs into an environment variable")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without a query and a fragment")
    return url.rstrip("/")
