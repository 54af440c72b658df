"""Thin Prefect tasks round the stages: retries, time-outs, progress and what the UI shows."""

from mirage_core.methods import import_registered

import_registered()
