"""What a draining process asks of its machine, seen from inside a fresh one."""

import json
import subprocess
import sys

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


def test_arrow_allocates_where_memory_goes_back() -> None:
    """A process of the command line lets Arrow use the C library's memory, which is given back after each job."""
    script = "import pipeline.cli.main, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "system"
