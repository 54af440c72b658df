"""Run a module as ``python -m`` does, its garbage collected by a thread of its own: for Prefect's server on SQLite.

A collection runs in whichever thread allocates, in a server mostly that of the event loop. Where it deletes a cursor
of a connection that waits for SQLite's write lock, it waits for that connection, and the loop with it. The
transaction that has the lock then never ends: requests stand still until SQLite's busy timeout, 60 s in Prefect. In a
thread of its own a collection may wait, and the loop goes on.
"""

from __future__ import annotations

import gc
import runpy
import sys
import threading
import time

YOUNG_S = 1.0
ALL_S = 60.0


def collect_in_a_thread() -> None:
    """Switch automatic collections off; a daemon thread makes them: young objects every second, all every minute."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage-collection", daemon=True).start()


def _collect() -> None:
    last = time.monotonic()
    while True:
        time.sleep(YOUNG_S)
        everything = time.monotonic() - last >= ALL_S
        last = time.monotonic() if everything else last
        gc.collect(2 if everything else 1)


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    del sys.argv[0]
    collect_in_a_thread()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
