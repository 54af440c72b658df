"""The report of a run: scores, findings, learning curves, training budget and sample trajectories."""
