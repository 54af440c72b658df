"""Hostile input: mutated files, records, replies and answers for every parser that a stranger reaches."""

from tests.soak.fuzz.answer_targets import ANSWER_TARGETS
from tests.soak.fuzz.data_targets import DATA_TARGETS
from tests.soak.fuzz.record_targets import RECORD_TARGETS
from tests.soak.fuzz.wire_targets import WIRE_TARGETS

TARGETS = (*DATA_TARGETS, *ANSWER_TARGETS, *RECORD_TARGETS, *WIRE_TARGETS)
