"""``transformers serve`` for a model folder of this project: its own server, routes and generation.

Only its loading of the processor is replaced, since the stock one wants torchvision for videos.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers.cli.serve import Serve
from transformers.cli.serving.model_manager import ModelManager

from mirage_core.model.processing import load_processor


def main(folder: str, port: int) -> None:
    """Serve the folder on loopback until killed."""
    ModelManager._load_processor = lambda self, name, gguf_file=None: load_processor(Path(folder))
    Serve(force_model=folder, host="127.0.0.1", port=port, device="cpu", log_level="error")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
