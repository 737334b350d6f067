"""The command ``pipeline``: asks the parts questions and prints the answers.

Exit 0: done. 1: trouble was found. 2: wrong use, said in one sentence. With ``--json`` one JSON object
goes to stdout and nothing else does; logs and progress go to stderr. The commands themselves stand in
``pipeline.cli``; importing a module there adds its commands to ``cli``.
"""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import click

from pipeline.base.errors import PipelineError, RedisDenied, UsageError
from pipeline.base.text import masked
from pipeline.cli import alerting, letters, looking, measuring, push, reporter, running, schema, segments, setup
from pipeline.cli.group import cli, fail, say
from pipeline.operate.process import leave

__all__ = [
    "alerting",
    "cli",
    "letters",
    "looking",
    "main",
    "measuring",
    "push",
    "reporter",
    "running",
    "schema",
    "segments",
    "setup",
]


def main() -> NoReturn:
    """Run the command line; errors become exit codes.

    The process leaves without the interpreter's teardown, which would wait for threads that are still busy.
    """
    try:
        _run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        # A bug, and loud; its text may hold a URL with a password.
        say(masked(traceback.format_exc()), err=True)
        code = 1
    leave(code)


def _run() -> None:
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (UsageError, RedisDenied) as error:
        fail(str(error), 2)
    except PipelineError as error:
        fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"'{error.filename}' cannot be used: {error.strerror}", 2)


if __name__ == "__main__":
    main()
