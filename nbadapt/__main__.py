"""``python -m nbadapt COMMAND ...``: the commands of ``%nbadapt``, in a terminal."""

from __future__ import annotations

import shlex
import sys

from nbadapt import commands
from nbadapt.errors import NbadaptError


def main(arguments: list[str]) -> int:
    """Print what a command answers; returns the exit status: 2 for a mistake, 1 where the doctor found a problem."""
    try:
        result = commands.execute(shlex.join(arguments), {})
    except NbadaptError as error:
        sys.stderr.write(f"nbadapt: {error}\n")
        return 2
    sys.stdout.write(f"{result!r}\n")
    return int(getattr(result, "exit_code", 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
