"""The compiled loops where nothing can be kept: they compile anew and read the same. What they read is tested in
test_columns."""

import subprocess
import sys

_SCRIPT = """
from numba.core import caching
caching.CompileResultCacheImpl._locator_classes = []  # as where no directory may be written
from pipeline.decode import columns, scan
columns.prepare()
print(type(scan.scan_items._cache).__name__)
"""


def test_without_a_place_for_the_cache_each_process_compiles() -> None:
    """A read-only installation and a user without a home: slower to start, and nothing else."""
    told = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "NullCache"
