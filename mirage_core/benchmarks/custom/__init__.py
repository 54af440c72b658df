"""A user's own problems: a JSONL file with pictures, or a task written in Python."""
