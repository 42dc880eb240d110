"""`python -m symconv`: the command, or one line that says what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, which stands on the `cli` extra."""
    try:
        from symconv.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.exit(f"symconv: the command needs {error.name}; pip install 'symconv[cli]'")
    run()


if __name__ == "__main__":
    main()
