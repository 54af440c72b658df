"""Evaluation: methods answer the same problems, are counted the same way, and a report tells what came out."""
