"""Where the time of a compiled program goes, by kind of kernel, from a trace of jax.profiler."""

import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


def by_kind(compiled: Any, run: Callable[[], Any], most: int = 12) -> list[dict[str, Any]]:
    """Time of the kernels of one run, those of one kind together: the most costly kinds, and all
    others as one.

    A kind is the last operation that was fused into a kernel, after the function that it is in if
    that is a call of its own. Kernels run side by side on a processor's cores, so their
    milliseconds may sum to more than the run takes.

    Args:
        compiled: a program, `jitted.lower(...).compile()`.
        run: runs it once.
        most: how many kinds to list.
    """
    lines = [
        line
        for line in compiled.as_text().splitlines()
        if not re.search(r" (call|while|conditional)\(", line)
    ]
    matches = (re.search(r'%([\w.\-]+) = .*metadata=\{op_name="([^"]*)"', line) for line in lines)
    names = dict(match.groups() for match in matches if match)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    milliseconds, counts = collections.Counter(), collections.Counter()
    for event in (
        event for plane in profile.planes for line in plane.lines for event in line.events
    ):
        if event.name in names:
            kind = _kind(names[event.name])
            milliseconds[kind] += event.duration_ns / 1e6
            counts[kind] += 1
    listed = [
        {"kind": kind, "ms": ms, "kernels": counts[kind]}
        for kind, ms in milliseconds.most_common(most)
    ]
    rest = milliseconds.keys() - {line["kind"] for line in listed}
    others = {
        "kind": "others",
        "ms": sum(milliseconds[kind] for kind in rest),
        "kernels": sum(counts[kind] for kind in rest),
    }
    return [*listed, others]


def _kind(name: str) -> str:
    *_, outer, inner = ["", *name.split("/")]
    return f"{outer}/{inner}" if re.fullmatch(r"jit\(_\w+\)", outer) else inner
