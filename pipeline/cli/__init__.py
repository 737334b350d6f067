"""The command line, one module for each kind of command; ``pipeline.cli.main`` puts them together."""

import os

# Arrow chooses its allocator when it is loaded. Its own, mimalloc, held 230 to 300 MB in a service under an even load,
# of which 5 to 25 MB were in use, and gave nothing back when asked to; the C library's does: ``process.return_memory``.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
