"""Logs of a training: progress, learning curves, throughput, TensorBoard events."""
