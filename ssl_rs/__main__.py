"""`python -m ssl_rs`: which commands there are."""

import sys

from ssl_rs.command import BAD_INPUT, COMMANDS, DONE, purpose
from ssl_rs.messages import print_line


def main() -> int:
    """Print each command with what it does; return 0 where that was asked for, else the code of a mistake."""
    print_line("usage: python -m ssl_rs.COMMAND [group=option ...] [key=value ...]\n")
    for name in COMMANDS:
        print_line(f"  {name:<10} {purpose(name)}")
    print_line("\n`python -m ssl_rs.COMMAND --help` prints its options and every key.")
    return DONE if {"-h", "--help"} & {*sys.argv[1:]} else BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
