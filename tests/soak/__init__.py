"""Faults by the hundred: `python -m tests.soak` kills, breaks, races and damages, and counts; see docs/soak.md."""
