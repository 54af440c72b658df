"""Thin Prefect tasks round the stages: cache key, retries, time-outs, progress and what the UI shows."""
