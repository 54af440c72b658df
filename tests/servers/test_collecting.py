"""A collection that waits for a connection must not keep the transaction open that the connection waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sqlite3, sys, threading, time

class Ring:
    def __init__(self, cursor):
        self.itself, self.cursor = self, cursor

writer, waiting = (
    sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None, check_same_thread=False) for _ in range(2)
)
writer.execute("pragma journal_mode=wal").fetchall()
writer.execute("begin immediate").close()
Ring(waiting.execute("select 1 union select 2"))  # a cursor that only a collection deletes

def wait():
    try:
        waiting.execute("begin immediate")
        print("has the lock")
    except sqlite3.OperationalError as error:
        print(error)

thread = threading.Thread(target=wait)
thread.start()
time.sleep(0.3)
objects = [[] for _ in range(200_000)]  # a collection, in this thread, if they are made by the thread that allocates
writer.execute("commit").close()
thread.join()
"""


@pytest.mark.parametrize(
    ("before", "expected"), [((), "database is locked"), (("deployments.collecting",), "has the lock")]
)
def test_the_one_who_waits_gets_the_lock_where_a_thread_of_its_own_collects(
    before: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", *before, "program", str(tmp_path / "data.sqlite")]
    done = subprocess.run(
        command, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == expected
