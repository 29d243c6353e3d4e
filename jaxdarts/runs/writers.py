"""Records of a run: JSON lines, TensorBoard events, a progress line and a text log.

A `Writer` is a pair of functions; `combine` makes one of many.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from jaxdarts import files

METRICS = dict[str, int | float | bool | None]
"""A record of metrics.jsonl; what is not finite is null."""


class Writer(NamedTuple):
    """Takes the metrics of a run, step by step.

    Attributes:
        write: called with a step and a mapping from names to scalars (Python, NumPy or JAX).
        close: called once, at the end.
    """

    write: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]


def combine(*writers: Writer) -> Writer:
    """Writes to every one of several writers, in order."""

    def write(step: int, values: Mapping[str, Any]) -> None:
        for writer in writers:
            writer.write(step, values)

    def close() -> None:
        for writer in writers:
            writer.close()

    return Writer(write, close)


def json_lines(path: str | os.PathLike, resume_step: int | None = None) -> Writer:
    """Appends one JSON object a line, `{"step": 3, "epoch": 0, "loss": 2.1}`.

    JSON has no NaN and no infinity: both are written as `null`. Every line is flushed, so a process
    that is killed loses the line it was writing at most; opening the file again removes such a
    torso.

    Args:
        path: the file, made with its folders where it does not exist.
        resume_step: drop the records of later steps first, so that a run that goes on from a
            checkpoint of this step leaves no step twice.

    Returns:
        A `Writer`; it raises ValueError for a value called "step" and TypeError for one that is not
        a scalar.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        lines = [
            line
            for line, record in files.lines_and_records(path)
            if resume_step is None or record["step"] <= resume_step
        ]
        new = "".join(line + "\n" for line in lines)
        if new.encode() != path.read_bytes():
            files.replace_text(path, new)
    file = path.open("a", encoding="utf-8")

    def write(step: int, values: Mapping[str, Any]) -> None:
        if "step" in values:
            raise ValueError(f'values name "step" ({values["step"]}); it is the first argument')
        record = {"step": int(step)} | {
            key: _finite(scalar(key, value)) for key, value in values.items()
        }
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()

    return Writer(write, file.close)


def tensorboard(folder: str | os.PathLike, resume_step: int | None = None) -> Writer:
    """Writes scalars as TensorBoard events.

    Args:
        folder: where the event files go.
        resume_step: hide the events of later steps that an earlier process left.

    Raises:
        ImportError: if tensorboardX is not installed.
    """
    try:
        # A slow import, and not every run wants it.
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "TensorBoard events need tensorboardX: pip install tensorboardX"
        ) from None
    purge_step = None if resume_step is None else resume_step + 1
    events = SummaryWriter(os.fspath(folder), purge_step=purge_step)

    def write(step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            events.add_scalar(key, scalar(key, value), int(step))

    return Writer(write, events.close)


def console(
    total: int,
    *,
    every: float = 10.0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    alone: bool = False,
) -> Writer:
    """Shows progress: a live bar on a terminal, plain lines elsewhere.

    The speed counts from the first write on, so it leaves out compilation.

    Args:
        total: the step at which the run ends.
        every: seconds between plain lines at least; the last one always comes.
        stream: where to write; standard output by default.
        clock: seconds, for the speed.
        alone: whether nothing else is written there meanwhile; then the bar says from its beginning
            that the first step is being compiled, and in a notebook one line is written over.
    """
    stream = sys.stdout if stream is None else stream
    if stream.isatty():
        show, stop = _bar(total, stream)
    elif alone and _is_notebook(stream):
        show, stop = _one_line(total, stream, clock)
    else:
        show, stop = _lines(total, stream, every, clock)
    if alone:
        show(0, "compiling the first step")
    first: list[tuple[int, float]] = []

    def write(step: int, values: Mapping[str, Any]) -> None:
        now, step = clock(), int(step)
        if not first:
            first.append((step, now))
        text = "  ".join(f"{key} {_brief(scalar(key, value))}" for key, value in values.items())
        steps, seconds = step - first[0][0], now - first[0][1]
        if steps > 0 and seconds > 0:
            text += (
                f"  {steps / seconds:.3g} steps/s  {duration((total - step) * seconds / steps)}"
                " left"
            )
        show(step, text.strip())

    return Writer(write, stop)


def _bar(total: int, stream: TextIO) -> tuple[Callable[[int, str], None], Callable[[], None]]:
    # Imported late: plain lines do without it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    progress = Progress(BarColumn(24), MofNCompleteColumn(), text, console=Console(file=stream))
    task = progress.add_task("", total=total)
    progress.start()
    return lambda step, line: progress.update(task, completed=step, description=line), progress.stop


def _lines(
    total: int, stream: TextIO, every: float, clock: Callable[[], float]
) -> tuple[Callable[[int, str], None], Callable[[], None]]:
    due, pending = -math.inf, ""

    def stop() -> None:
        nonlocal pending
        if pending:
            print(pending, file=stream, flush=True)
        pending = ""

    def show(step: int, line: str) -> None:
        nonlocal due, pending
        pending = f"step {step}/{total}  {line}".rstrip()
        if clock() >= due:
            due = clock() + every
            stop()

    return show, stop


def _is_notebook(stream: TextIO) -> bool:
    """Whether a stream is the standard output of a Jupyter kernel."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def _one_line(
    total: int, stream: TextIO, clock: Callable[[], float]
) -> tuple[Callable[[int, str], None], Callable[[], None]]:
    """A bar of characters that is written over twice a second at most."""
    due, width, pending = -math.inf, 0, ""

    def write(line: str, end: str) -> None:
        nonlocal width
        print("\r" + line.ljust(width), end=end, file=stream, flush=True)
        width = len(line)

    def show(step: int, line: str) -> None:
        nonlocal due, pending
        done = 24 * step // max(total, 1)
        pending = f"{'█' * done}{'░' * (24 - done)} {step}/{total}  {line}".rstrip()
        if clock() >= due:
            due = clock() + 0.5
            write(pending, "")

    return show, lambda: write(pending, "\n")


def logger(path: str | os.PathLike) -> logging.Logger:
    """Makes a logger that appends to a file and repeats each message on standard output.

    Lines read `11/22 03:01:14 AM message`, the format that scripts around DARTS parse. The logger
    stands alone: it is not among those of `logging.getLogger`, so two runs in a process do not mix.
    End it with `close_logger`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.Logger("jaxdarts", logging.INFO)
    # A name of a file that is not UTF-8 must not stop a message about it: its bytes are escaped.
    for handler in (
        logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"),
        _Stdout(),
    ):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%m/%d %I:%M:%S %p"))
        log.addHandler(handler)
    return log


def mute(log: logging.Logger) -> None:
    """Ends a logger's messages on standard output; those in its file go on."""
    for handler in list(log.handlers):
        if isinstance(handler, _Stdout):
            log.removeHandler(handler)


def close_logger(log: logging.Logger) -> None:
    """Closes the files of a logger."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


class _Stdout(logging.Handler):
    """Stream that looks `sys.stdout` up at each message.

    So a live bar, which replaces it, stays below the messages.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            line = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
            print(line, file=sys.stdout, flush=True)
        except Exception:
            self.handleError(record)


def scalar(key: str, value: Any) -> int | float:
    """Turns a scalar array into a Python number.

    Raises:
        TypeError: if the value is not a single number.
    """
    if getattr(value, "shape", ()) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)):
        raise TypeError(f"{key} is {type(value).__name__} {value!r:.60}; metrics must be scalars")
    return value


def duration(seconds: float) -> str:
    """Formats a time span.

    >>> duration(5025), duration(61), duration(0.4)
    ('1:23:45', '1:01', '0:00')
    """
    minutes, rest = divmod(max(int(seconds), 0), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )


def _finite(value: int | float) -> int | float | None:
    return value if math.isfinite(value) else None


def _brief(value: int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
