"""Values of cells by a program of the user's own: `jaxdarts discrete --evaluate=command`.

The program reads one line of JSON for a cell from its standard input,

    {"arch": "|none~0|+...", "genotype": {"cell": [["none", 0], ...]}, "epochs": null}

and answers with one number on its standard output; larger is better. `arch` is the text and
`genotype` the JSON of the same cell, and `epochs` the length of a training, where the search
algorithm chooses one. By default every cell has a process of its own, whose last line is the
answer. A process that stays answers each line by one line.
"""

import atexit
import contextlib
import json
import os
import queue
import reprlib
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxdarts import genotypes

TAIL = 500
"""How many of the last characters of its standard error a failure shows."""
GRACE = 5
"""Seconds that a process which stays has to end by itself when the search is over."""
FLAG = "--evaluate_command"


def words_of(command: str) -> list[str]:
    """The program of a command line and its arguments, split as a shell splits them.

    Raises:
        ValueError: if that cannot be done.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{FLAG}={command}: {error}") from error
    if not words:
        raise ValueError(f"{FLAG}={reprlib.repr(command)}: no command; such as 'python my.py'")
    return words


def value_of(command: str, seconds: float, stays: bool) -> Callable[[Any, int | None], float]:
    """The function (genotype, epochs or None) -> value that asks a program.

    Args:
        command: a command line; no shell runs it.
        seconds: how long one answer may take.
        stays: whether one process answers many cells. As many as there are threads that ask at a
          time are started, the first of them at the first cell.

    Raises:
        ValueError: if the program is not there; the function raises one if it does not answer.
    """
    words = words_of(command)
    if shutil.which(words[0]) is None:
        raise ValueError(f"{FLAG}={command}: there is no program {words[0]!r}")
    idle: list[Process] = []

    def asked_once(line: str) -> str:
        process = Process(words, command, seconds)
        try:
            return process.only_answer(line)
        finally:
            process.end()

    def asked_again(line: str) -> str:
        process = idle.pop() if idle else Process(words, command, seconds)
        try:
            answer = process.next_answer(line)
        except BaseException:
            process.end()
            raise
        idle.append(process)
        return answer

    def end_all() -> None:
        while idle:
            idle.pop().end(GRACE)

    if stays:
        atexit.register(end_all)
    ask = asked_again if stays else asked_once
    return lambda genotype, epochs: _number(command, ask(question(genotype, epochs)))


def question(genotype: Any, epochs: int | None) -> str:
    """The line that asks for the value of a cell."""
    fields = json.loads(genotypes.to_json(genotype))
    return json.dumps({"arch": str(genotype), "genotype": fields, "epochs": epochs}) + "\n"


def _number(command: str, answer: str) -> float:
    try:
        return float(answer)
    except ValueError:
        text = f"printed {reprlib.repr(answer)}" if answer else "printed nothing"
        raise ValueError(
            f"{FLAG}={command}: {text}, not a number; all but the number belongs to standard error"
        ) from None


class Process:
    """A process of the program, and what it has printed.

    It is the leader of a session, so that everything that it has started ends with it.
    """

    def __init__(self, words: Sequence[str], command: str, seconds: float):
        self.command, self.seconds = command, seconds
        self.errors = tempfile.TemporaryFile()  # a pipe that nobody empties would stop the program
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                start_new_session=True,
            )
        except OSError as error:
            self.errors.close()
            raise ValueError(f"{FLAG}={command}: {error.strerror or error}") from error
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.decode(errors="replace").strip())
        self.lines.put(None)

    def only_answer(self, line: str) -> str:
        """The last line that it prints before it ends.

        Raises:
            ValueError: if it fails or is too slow.
        """
        limit = time.monotonic() + self.seconds
        self._send(line)
        self._close_input()
        answer = ""
        while (printed := self._next(limit)) is not None:
            answer = printed or answer
        if code := self._exit_code(limit):
            raise ValueError(self._failed(code))
        return answer

    def next_answer(self, line: str) -> str:
        """The line that it prints for this one.

        Raises:
            ValueError: if it fails, is too slow, or has printed more than one line for another.
        """
        if not self.lines.empty() and (extra := self.lines.get()) is not None:
            raise ValueError(
                f"{FLAG}={self.command}: printed {reprlib.repr(extra)} after its answer; one line"
                " for each cell, all else to standard error"
            )
        limit = time.monotonic() + self.seconds
        self._send(line)
        answer = self._next(limit)
        if answer is None:
            raise ValueError(self._failed(self._exit_code(limit)))
        return answer

    def end(self, grace: float = 0) -> None:
        """Tells it that no cell comes any more, and kills it and all that it has started.

        grace: how many seconds it has to end by itself.
        """
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        # macOS does not permit it for a process that has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(1)
        if self.process.stdout and not self.reader.is_alive():  # nothing else holds the pipe
            self.process.stdout.close()
        self.errors.close()

    def _close_input(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it does not read
            self.process.stdin.close()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        # If it does not read, or has ended, the answer tells.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()

    def _next(self, limit: float) -> str | None:
        try:
            return self.lines.get(timeout=max(0, limit - time.monotonic()))
        except queue.Empty:
            raise ValueError(self._slow()) from None

    def _exit_code(self, limit: float) -> int:
        try:
            return self.process.wait(max(0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ValueError(self._slow()) from None

    def _slow(self) -> str:
        return (
            f"{FLAG}={self.command}: no answer within --evaluate_timeout={self.seconds:g}"
            f" seconds{self._shown()}"
        )

    def _failed(self, code: int) -> str:
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"{FLAG}={self.command}: {how}{self._shown()}"

    def _shown(self) -> str:
        """The end of its standard error in one line, for a message."""
        size = self.errors.seek(0, 2)
        self.errors.seek(max(0, size - 4 * TAIL))
        text = " ".join(self.errors.read().decode(errors="replace").split())
        return f": ...{text[-TAIL:]}" if len(text) > TAIL else f": {text}" if text else ""
