"""``python -m nbadapt COMMAND ...``: what ``%nbadapt COMMAND ...`` does, in a terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from nbadapt import commands
from nbadapt.errors import NbadaptError


def main(arguments: Sequence[str]) -> int:
    """Do what the command says and print its result; the exit status is 1 where it failed."""
    try:
        result = commands.execute(shlex.join(arguments), {})
    except NbadaptError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)  # noqa: T201 - for a terminal
        return 1
    if result is not None:
        print(result)  # noqa: T201 - as above
    return 0 if getattr(result, "passed", True) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
