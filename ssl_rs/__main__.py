"""`python -m ssl_rs`: which commands there are."""

import sys

from ssl_rs.command import COMMANDS, purpose
from ssl_rs.messages import print_line


def main() -> int:
    """Print each command with what it does, and return the exit code of a command that was given nothing to do."""
    print_line("usage: python -m ssl_rs.COMMAND [group=option ...] [key=value ...]\n")
    for name in COMMANDS:
        print_line(f"  {name:<10} {purpose(name)}")
    print_line("\n`python -m ssl_rs.COMMAND --help` prints its options and every key.")
    return 2


if __name__ == "__main__":
    sys.exit(main())
