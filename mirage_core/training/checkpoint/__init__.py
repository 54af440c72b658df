"""Checkpoints: sharded training state in safetensors, written in the background, readable by any engine."""
