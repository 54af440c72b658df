"""Users' own benchmarks: a JSONL file with images, or a task written in Python."""
