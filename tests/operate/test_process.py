"""What a draining process asks of its machine, seen from inside a fresh one."""

import json
import os
import resource
import subprocess
import sys

import pytest

_SCRIPT = """
import json, os, threading
from pipeline.operate import process
seen = []
def look(): seen.append(os.nice(0))
before = threading.Thread(target=look); before.start(); before.join()
process.share_memory()
process.yield_to_redis()
process.yield_to_redis()
after = threading.Thread(target=look); after.start(); after.join()
print(json.dumps([*seen, os.nice(0)]))
"""


def test_threads_started_afterwards_give_way_too() -> None:
    """Once is as good as twice, and nothing else about the process changes."""
    told = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True).stdout
    usual, later, own = json.loads(told)
    assert later == own == max(usual, 10)


_STOPPED = """
import json, os, signal, threading
from pipeline.operate import process
process.yield_to_redis()
asleep = threading.Event()
threading.Thread(target=asleep.wait).start()
with process.stopping() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    stop.wait()
    print(json.dumps([os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")]))
asleep.set()
"""


def test_a_process_that_has_to_stop_yields_no_longer() -> None:
    """All of its threads, where the system allows it: nice among busy ones, its last steps would take many seconds."""
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems have no niceness for each thread")
    usual = os.nice(0)
    run = subprocess.run([sys.executable, "-c", _STOPPED], capture_output=True, text=True, check=True)
    allowed = os.geteuid() == 0 or 20 - resource.getrlimit(resource.RLIMIT_NICE)[0] <= usual
    found = json.loads(run.stdout)
    assert len(found) >= 3
    assert set(found) == {usual if allowed else max(usual, 10)}


def test_arrow_allocates_where_memory_goes_back() -> None:
    """A process of the command line lets Arrow use the C library's memory, which is given back after each job."""
    script = "import pipeline.cli.main, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "system"
