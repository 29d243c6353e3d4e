"""Runs a command: `jaxdarts search --dataset=cifar10`, or `python -m jaxdarts search ...`."""

import importlib
import sys

import jaxdarts

COMMANDS = {
    "search": ("search.command", "search a cell by gradient descent on images or text"),
    "evaluate": (
        "evaluate.command",
        "train a found or published cell from scratch; ensembles of cells",
    ),
    "predict": ("predict", "classify pictures by a trained network"),
    "export": ("export", "write a trained network as one file, for ONNX or JAX"),
    "discrete": (
        "discrete.command",
        "search among discrete cells: random, evolution, NASWOT, hyperband",
    ),
    "enas": ("enas", "search a cell by a policy over shared weights"),
    "score": ("score", "score untrained networks, and compare the ranking with true accuracies"),
    "measure": ("measure", "time the operations of a space on this device, for limits on latency"),
    "analyze": ("analyze.command", "look into finished runs"),
    "compare": ("compare", "run several search algorithms and compare what they find"),
    "draw": ("draw", "draw a cell or the curves of a run as PDF, PNG or SVG, for a paper"),
    "convert": ("convert", "turn the file of a benchmark into a table, or add it to one"),
    "nats_to_csv": ("nats_to_csv", "turn the files of NATS-Bench into a table"),
}
"""Name of each command: (module in jaxdarts.commands with `main(arguments)`, summary)."""


def main(command: str | None = None) -> None:
    """Runs a command with the flags of the command line.

    Without a name, the first word is the name.
    """
    if command is None:
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            return print(usage())
        if words[0] == "--version":
            return print(f"jaxdarts {jaxdarts.__version__}")
        command = words[0]
        sys.argv = [f"jaxdarts {command}", *words[1:]]
        if command not in COMMANDS:
            print(
                f"jaxdarts: no command {command!r}; there are {', '.join(COMMANDS)}",
                file=sys.stderr,
            )
            sys.exit(2)
    module, _ = COMMANDS[command]
    from jaxdarts.runs import process  # JAX and orbax take seconds: not for --help and --version

    process.start(
        lambda arguments: importlib.import_module(f"jaxdarts.commands.{module}").main(arguments)
    )


def usage() -> str:
    """The commands with a line each."""
    rows = [f"  {name:12} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxdarts COMMAND [flags]",
            "",
            *rows,
            "",
            "jaxdarts COMMAND --help lists the flags.",
        ]
    )


if __name__ == "__main__":
    main()
