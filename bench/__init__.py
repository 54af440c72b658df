"""Benchmarks of speed and memory, reported as ratios that hold on any machine."""
