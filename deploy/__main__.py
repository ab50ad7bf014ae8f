"""Entry point of the `sparc` command and of `python -m deploy`, which the supervised parts run.

The environment is put in order first, before anything of the project is imported: what is imported
may read it, and may come from somewhere else.
"""

from __future__ import annotations

import sys

from deploy.environment import ForeignPackageError, refuse_foreign_packages, settle, speak_plainly

TOLD_BY = ("up", "doctor")
"""Commands that say which variables of the shell are not used."""


def main() -> None:
    """Run `sparc`."""
    taken = settle()
    speak_plainly()
    try:
        refuse_foreign_packages()
    except ForeignPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if taken and sys.argv[1:2] and sys.argv[1] in TOLD_BY:
        print(f"not used from your environment: {', '.join(taken)}", file=sys.stderr)
    from deploy.commands.app import app

    app(prog_name="sparc")


if __name__ == "__main__":
    main()
