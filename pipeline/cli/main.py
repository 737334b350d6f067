"""The command ``pipeline``: asks the parts questions and prints the answers.

Exit 0: done. 1: trouble was found. 2: wrong use, said in one sentence. With ``--json`` one JSON object goes to
stdout and nothing else does, of an error ``{"error": …}``; logs, progress and sentences go to stderr. The commands
themselves stand in ``pipeline.cli``; importing a module there adds its commands to ``cli``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pipeline.base.errors import PipelineError, RedisDenied, UsageError
from pipeline.base.text import masked, printable
from pipeline.cli import alerting, letters, looking, measuring, push, reporter, running, schema, segments, setup
from pipeline.cli.group import cli, fail, print_json, say
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
        text = masked(traceback.format_exc())
        say(text, err=True)
        _print_error(text.strip().splitlines()[-1])
        code = 1
    leave(code)


def _run() -> None:
    try:
        _demand_utf8(sys.argv[1:])
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        _print_error(error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (UsageError, RedisDenied) as error:
        _fail(str(error), 2)
    except PipelineError as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"'{error.filename}' cannot be used: {error.strerror}", 2)


def _demand_utf8(arguments: Sequence[str]) -> None:
    """Raise ``UsageError`` for bytes that are not UTF-8, unless they name a file that is there."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not os.path.lexists(argument):
                raise UsageError(f"the argument '{printable(argument)}' is not UTF-8 text") from None


def _fail(sentence: str, code: int) -> NoReturn:
    _print_error(sentence)
    fail(sentence, code)


def _print_error(sentence: str) -> None:
    """With ``--json`` a program reads stdout: it is told there too."""
    options = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if "--json" in options:
        print_json({"error": " ".join(masked(sentence).split())})


if __name__ == "__main__":
    main()
