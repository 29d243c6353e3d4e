"""Check and measure this library on a real accelerator, in one call:

    python experiments/benchmarks/device.py --minutes=8 --output=device.jsonl [--peer=FOLDER]
    [--images=FOLDER]

The command runs from the root of a checkout, without installation. It needs JAX for the device,
flax, optax and orbax. It does not need TensorFlow Datasets, tyro or tensorboardX. Six parts follow
one another, each with its own share of the time. An item that fails says so, and the next one
starts. Each result is one JSON line, printed and appended to --output at once. The same command
again skips what --output already holds from this kind of device (--again measures it anew), so an
interrupted call goes on. A table ends the call. The exit code is 1 if a case of correctness is
wrong or failed.

correctness   Primitives, a small supernet with its exact hypergradient, a recurrent search step.
`errors` are
              ||result - reference|| / ||reference|| against float64: the arrays in
              device_reference.npz, and, for fresh random inputs, the CPU of the same process. Those
              of float32 with TF32 off must stay below `bound`; those with JAX's default precision
              (TF32 on recent GPUs) and in bfloat16 are only told. A case has a line after each of
              the three, the last of which holds all.
forms         Four ways to compute 5 edges of 5x5 separable convolutions with their gradients
(forms.py), where the edges leave
              one state ("first") and where each has its own input ("second"). Milliseconds are
              medians; `difference` is that to the definition (taps) in float32.
steps         Weight step, and whole first- and second-order search steps of the published supernet,
batch 64, in float32 with
              TF32 off and in bfloat16: seconds to trace and compile, milliseconds, memory, kernels.
options       The weight step of three cells in float32 under XLA's options for GPUs: seconds to
compile, milliseconds, how
              far two runs are apart (`between_runs`, of the norm of what changes most; 0 is to the
              bit), and whether they give the bits of the default options (`as_default`).
peer          The same steps of a checkout of quark0/darts under PyTorch, eager, TF32 off and on.
Needs --peer and torch. search        A second-order search in the published setting on the images
in --images (npz_images.py), for as many of its 50
              epochs as fit into the time left, to its report. The same command again goes on with
              it.

On another machine, which needs no accelerator:

    python experiments/benchmarks/device.py --make_reference                             # writes
    device_reference.npz python experiments/benchmarks/device.py --make_images=cifar10
    --output=FOLDER        # npz files below 64 MiB each

--make_images takes npz:FILE and folder:PATH too (`jaxdarts.data.images.load`).
--smoke takes tiny sizes, for a test of all this on a CPU in less than a minute.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Before installed packages, some of which have the names of our scripts.
sys.path[:0] = [
    str(folder) for folder in (FOLDER.parents[1], FOLDER) if str(folder) not in sys.path
]

SHARES = {
    "machine": 0.15,
    "correctness": 0.3,
    "forms": 0.2,
    "steps": 0.4,
    "options": 0.15,
    "peer": 0.15,
    "search": 1.0,
}
"""Parts in their order, and the share of --minutes that each may take at most; the last one takes
what is left.
"""

PRIMITIVES = (
    "depthwise",
    "depthwise_dilated",
    "depthwise_strided",
    "separable",
    "separable_strided",
    "max_pool",
    "max_pool_strided",
    "batch_norm",
    "convolution",
    "convolution_strided",
)
FORMS = ("library", "taps", "grouped", "folded")
PRECISIONS = ("float32", "tf32", "bfloat16")
STEPS = ("weight_step", "second_order_search", "first_order_search")
_CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION"
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "compiled again": {},
    "deterministic": {"xla_gpu_exclude_nondeterministic_ops": True},
    "deterministic, not autotuned": {"xla_gpu_deterministic_ops": True},
    "not autotuned": {"xla_gpu_autotune_level": 0},
    "fusions not autotuned": {"xla_gpu_experimental_enable_fusion_autotuner": False},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "loops in command buffers": {"xla_gpu_enable_command_buffer": f"{_CAPTURED},WHILE,CONDITIONAL"},
}
"""Options of XLA for GPUs. Autotuning chooses by measurements, so two compilations can choose
differently.
"""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="time for everything; parts that do not fit are left out",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON lines to append to and to go on from; a folder for what is made",
    )
    parser.add_argument(
        "--parts", default=",".join(SHARES), help="comma-separated, of: %(default)s"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure anew what --output holds already"
    )
    parser.add_argument("--peer", help="checkout of quark0/darts")
    parser.add_argument("--images", type=Path, help="folder of npz files to search on")
    parser.add_argument(
        "--search_dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of the search",
    )
    parser.add_argument(
        "--run_dir", type=Path, default=Path("runs/device-search"), help="run folder of the search"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="keep jax.profiler's record of every step beside --output",
    )
    parser.add_argument(
        "--cache",
        default="~/.cache/jaxdarts",
        help="JAX's cache of compiled programs; empty for none",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument(
        "--make_reference",
        action="store_true",
        help="write device_reference.npz, or --output, and end",
    )
    parser.add_argument(
        "--make_images", metavar="NAME", help="write a data set as npz files into --output, and end"
    )
    parser.add_argument("--data_dir", help="where TFDS keeps the data set of --make_images")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.parts = tuple(args.parts.split(","))
    if unknown := set(args.parts) - set(SHARES):
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; there are {', '.join(SHARES)}")
    if args.output is None and args.make_images:
        parser.error("--make_images needs --output=FOLDER")
    return args


def items(args: argparse.Namespace) -> dict[str, list[str]]:
    """What each part consists of, each of which is a result of its own."""
    stored = [*PRIMITIVES, "recurrent", "supernet"]
    programs = [f"{step} {dtype}" for step in STEPS for dtype in ("float32", "bfloat16")]
    parts = {
        "machine": ["machine"],
        # Large inputs first: it is for them that libraries choose other algorithms.
        "correctness": [*(f"fresh {name}" for name in PRIMITIVES), *reversed(stored)],
        "forms": [
            f"{stage} {form} {kind}"
            for kind in PRECISIONS
            for stage in ("first", "second")
            for form in FORMS
        ],
        "steps": programs,
        "options": list(OPTIONS),
        "peer": [
            f"{layout} tf32={tf32}"
            for layout in ("default", "channels_last")
            for tf32 in ("off", "on")
        ],
        "search": ["search"],
    }
    if args.smoke:
        parts["correctness"] = ["depthwise_strided", "max_pool", "batch_norm", "fresh convolution"]
        parts["forms"] = [f"second {form} float32" for form in FORMS]
        parts["steps"] = ["weight_step float32", "second_order_search bfloat16"]
        parts["options"] = ["default", "compiled again"]
    return {part: names for part, names in parts.items() if part in ("machine", *args.parts)}


class Worker:
    """The process that uses the device. It is killed, with what it has started, when an item takes
    too long.
    """

    def __init__(self, argv: list[str]):
        environment = dict(os.environ)
        # PyTorch has the same device while this process waits for the peer.
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
        command = [sys.executable, str(FOLDER / "device.py"), *argv, "--worker"]
        # A group of its own, to be ended together; no session of its own, so that what ends this
        # one ends it too.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes, env=environment, process_group=0)
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def do(self, part: str, item: str, seconds: float) -> Iterator[dict[str, Any]]:
        """The results of one item, as they come.

        Raises:
            TimeoutError: after the given number of seconds.
            ChildProcessError: if the process ended.
        """
        assert self.process.stdin is not None
        end = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(
                json.dumps({"part": part, "item": item, "seconds": seconds}) + "\n"
            )
            self.process.stdin.flush()
        while True:
            try:
                line = self.lines.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                raise TimeoutError(
                    f"stopped after {seconds:.0f} s, the time that was left to this part"
                ) from None
            if line is None:
                raise ChildProcessError(f"the process ended with status {self.process.wait()}")
            result = json.loads(line)
            if "end" in result:
                return
            yield result

    def end(self, patience: float = 10.0) -> None:
        """Ends it and all that it has started; a search gets some seconds to save its state."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def measure(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs all parts; returns the exit code."""
    start = time.monotonic()
    end, total = start + 60 * args.minutes, 60 * args.minutes
    before = (
        [json.loads(line) for line in args.output.read_text().splitlines()]
        if args.output and args.output.exists()
        else []
    )
    now: list[dict[str, Any]] = []
    device, worker = "", None

    def emit(line: dict[str, Any]) -> None:
        now.append({**line, "device": device})
        text = json.dumps(now[-1])
        print(text, flush=True)
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            with args.output.open("a") as file:
                file.write(text + "\n")

    def done(part: str, item: str) -> bool:
        """Machines differ, and a search goes on; all else is measured once on a kind of device."""
        same = [
            line
            for line in before
            if (line["part"], line.get("item"), line["device"]) == (part, item, device)
        ]
        return (
            bool(same)
            and "error" not in same[-1]
            and not args.again
            and part not in ("machine", "search")
        )

    try:
        parts = items(args)
        for part, names in parts.items():
            share = 1.0 if part == [*parts][-1] else SHARES[part]
            last = min(end, time.monotonic() + share * total)
            needed = {"peer": args.peer, "search": args.images}
            if not needed.get(part, True):
                emit({"part": part, "skipped": f"no --{'images' if part == 'search' else part}"})
                continue
            names = [name for name in names if not done(part, name)]
            for i, name in enumerate(names):
                seconds = last - time.monotonic()
                if seconds < (0.5 if args.smoke else 5):
                    emit({"part": part, "skipped": "no time left", "items": names[i:]})
                    break
                worker = worker or Worker(argv)
                try:
                    for line in worker.do(part, name, seconds):
                        device = line.pop("device", device)
                        emit({"part": part, "item": name, **line})
                except (TimeoutError, ChildProcessError) as error:
                    emit({"part": part, "item": name, "error": str(error)})
                    worker.end()
                    worker = None
    finally:
        if worker:
            worker.end()
    newest = {
        (line["part"], line["item"]): line
        for line in [*before, *now]
        if "item" in line and line["device"] == device
    }
    print(f"{device or 'no device'}, results so far:", table(newest), sep="\n", flush=True)
    return (
        1
        if any(part == "correctness" and not line.get("ok") for (part, _), line in newest.items())
        else 0
    )


def table(newest: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The newest result of every (part, item) as text, and how many times as long as ours the
    peer's steps take.
    """
    rows = []
    for (part, item), line in newest.items():
        if "error" in line:
            rows.append(f"{part:12} {item:40} {line['error'][:80]}")
        elif part == "correctness":
            shown = ", ".join(
                f"{kind} {max(errors.values()):.1e}" for kind, errors in line["errors"].items()
            )
            rows.append(f"{part:12} {item:40} {'right' if line['ok'] else 'WRONG'}: {shown}")
        elif "ms" in line:
            rows.append(f"{part:12} {item:40} {line['ms']:.3f} ms")
        elif part == "peer":
            shown = " / ".join(
                f"{line[f'{step}_ms']:.1f}"
                for step in ("weight_step", "first_order", "second_order")
            )
            rows.append(f"{part:12} {item:40} {shown} ms")
        elif part == "search":
            shown = (
                f"{line['epochs']} epochs, {line['minutes_for_all_epochs']:.1f} minutes for all,"
                f" {line['valid_accuracy']:.4f}"
            )
            rows.append(f"{part:12} {item:40} {shown} validation accuracy")
    jaxdarts_ms = {
        item: line["ms"]
        for (part, item), line in newest.items()
        if part == "steps" and "ms" in line
    }
    for (part, item), line in newest.items():
        if part == "peer" and "weight_step_ms" in line:
            # A search step is one of the architecture and one of the weights.
            weight = line["weight_step_ms"]
            peer_ms = {"weight_step": weight}
            peer_ms |= {
                f"{order}_search": line[f"{order}_ms"] + weight
                for order in ("first_order", "second_order")
            }
            for program, ms in jaxdarts_ms.items():
                rows.append(
                    f"{'speedup':12} {program + ', peer ' + item:40}"
                    f" {peer_ms[program.split()[0]] / ms:.2f}"
                )
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = arguments(argv)
    if args.worker:
        import measurements

        measurements.serve(args)
        return 0
    if args.make_reference:
        # Float64 results of the definitions; an accelerator would only be in the way.
        os.environ["JAX_PLATFORMS"] = "cpu"
        import correctness

        correctness.make_reference(args.output or correctness.REFERENCE)
        return 0
    if args.make_images:
        import npz_images
        from jaxdarts.data import images

        for path in npz_images.write(
            images.load(args.make_images, args.data_dir).train, args.output
        ):
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        return 0
    return measure(args, argv)


if __name__ == "__main__":
    sys.exit(main())
