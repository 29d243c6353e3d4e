"""Analyses of searches and trainings: python experiments/analyze.py COMMAND [flags]; COMMAND --help explains its flags.

ranking     how well shared weights rank the 64 models of a small space
"""

from collections.abc import Callable

import ranking
import runs

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "ranking": ranking.main,
}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0] not in COMMANDS:
        raise runs.Stop(f"{arguments[0]}: there are {', '.join(COMMANDS)}", 2)
    COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    runs.start(main)
