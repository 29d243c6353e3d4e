"""What device.py measures, item by item, in the process that uses the device."""

import argparse
import dataclasses
import functools
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bench
import correctness
import forms
import jaxdarts as jd
import npz_images
import peer as torch_peer
from jaxdarts import aot, runs

KEPT = 4
"""Weights, their optimiser's state, alpha and its optimiser's state: what a step takes first, and
returns.
"""

SMALL = ("none", "skip_connect")
"""Operations of the smoke form's networks."""

PRECISIONS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
"""Number format of the arrays, and precision of matrix products. On recent GPUs JAX's default for
float32 is TF32.
"""


def serve(args: argparse.Namespace) -> None:
    """Reads requests from stdin, one JSON line each, and writes their results to stdout; all else
    goes to stderr.
    """
    out, sys.stdout = sys.stdout, sys.stderr
    if args.cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(args.cache).expanduser()))
    for text in sys.stdin:
        request = json.loads(text)
        start = time.perf_counter()
        try:
            for line in PARTS[request["part"]](args, request["item"], request["seconds"]):
                line |= {"seconds": round(time.perf_counter() - start, 1), "device": device()}
                print(json.dumps(line), file=out, flush=True)
        except Exception as error:  # whatever it is, the next item may do better
            print(json.dumps({"error": first_line(error)}), file=out, flush=True)
        print(json.dumps({"end": True}), file=out, flush=True)


def device() -> str:
    """The kind of the device that everything runs on."""
    return jax.local_devices()[0].device_kind


def first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300] if lines else ''}"


def milliseconds(
    run: Callable[[int], Any], seconds: float = 0.3, repeats: int = 5
) -> dict[str, Any]:
    """Times run(n), which calls a program n times and waits for the last: the median of a call,
    least and most.

    Calls follow one another without waiting, as in a training, so that the device is never idle
    between them unless the host takes longer to launch a call than the device to run it. n is such
    that the repeats together take a given number of seconds.
    """
    run(1)
    start = time.perf_counter()
    run(1)
    number = max(1, math.ceil(seconds / repeats / (time.perf_counter() - start)))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(number)
        times.append(1000 * (time.perf_counter() - start) / number)
    return {
        "ms": statistics.median(times),
        "least_ms": min(times),
        "most_ms": max(times),
        "calls": number * repeats,
    }


def machine(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Versions, and what the device does at best: a large copy and large matrix products of random
    numbers.
    """
    size, words = (256, 10**6) if args.smoke else (8192, 2**28)
    line: dict[str, Any] = {**runs.versions(), "platform": jax.default_backend()}
    line.pop("command")
    line["platform_version"] = " ".join(jax.local_devices()[0].client.platform_version.split())
    vector = jax.random.normal(jax.random.key(0), (words,))
    copy = jax.jit(lambda x: x + 1)
    ms = milliseconds(functools.partial(_repeated, copy, [(vector,)]), 0.1)["ms"]
    line["copy_gigabytes_a_second"] = 2 * vector.nbytes / ms / 1e6
    for name, (dtype, precision) in PRECISIONS.items():
        matrix = jax.random.normal(jax.random.key(1), (size, size), jnp.dtype(dtype))
        with jax.default_matmul_precision(precision):
            product = jax.jit(lambda x: x @ x).lower(matrix).compile()
        ms = milliseconds(functools.partial(_repeated, product, [(matrix,)]), 0.1)["ms"]
        line[f"{name}_teraflops_a_second"] = 2 * size**3 / ms / 1e9
    yield line


def _repeated(program: Callable, inputs: list[tuple], number: int) -> None:
    """Calls a program with one input after another, in turns, and waits."""
    for i in range(number):
        out = program(*inputs[i % len(inputs)])
    jax.block_until_ready(out)


def check(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """The errors of one case, against the stored reference or, of fresh inputs, against float64 on
    this machine's CPU.
    """
    fresh, name = item.startswith("fresh "), item.removeprefix("fresh ")
    case, about = correctness.CASES[name], {}
    if fresh:
        about["seed"] = time.time_ns() % 2**32
        inputs = case.draw(np.random.default_rng(about["seed"]), "small" if args.smoke else "large")
        reference = correctness.in_float64(case.define, inputs)
    else:
        inputs, reference = correctness.read_reference(name)
    errors = {}
    for kind, (dtype, precision) in PRECISIONS.items():
        if kind == "tf32" and jax.default_backend() == "cpu":
            continue  # a CPU has no such mode
        errors[kind] = correctness.checked(case, inputs, reference, dtype, precision)
        yield {
            "ok": correctness.within(errors["float32"], case.bound),
            "bound": case.bound,
            "errors": dict(errors),
            **about,
        }


def with_gradients(form: Callable) -> Callable:
    """A form's result and all its gradients, from the cotangent of the result."""

    def function(x, depthwise, pointwise, cotangent):
        y, transpose = jax.vjp(form, x, depthwise, pointwise)
        return y, transpose(cotangent)

    return runs.jitted(function)


@functools.cache
def bundle(smoke: bool, stage: str) -> tuple[list[tuple], dict[str, np.ndarray]]:
    """Inputs of the published bundle, several that take turns, and what the definition makes of the
    first in float32.

    Were it always the same input, it would be read from the device's cache.
    """
    g, k = (1, 5) if stage == "first" else (5, 1)
    number, batch, size, channels = (1, 2, 8, 4) if smoke else (4, 64, 32, 16)
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    image = (batch, size, size, channels)
    inputs = [
        (
            draw(g, *image),
            draw(g, k, 5, 5, channels),
            draw(g, k, channels, channels),
            draw(g, k, *image),
        )
        for _ in range(number)
    ]
    with jax.default_matmul_precision("highest"):
        return inputs, correctness.vectors({"all": with_gradients(forms.taps)(*inputs[0])})


def time_form(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """One form of the published bundle with all its gradients, and how far its numbers are from
    those of the definition.
    """
    stage, name, kind = item.split()
    dtype, precision = PRECISIONS[kind]
    inputs, reference = bundle(args.smoke, stage)
    inputs = jax.tree.map(lambda x: x.astype(dtype), inputs)
    with jax.default_matmul_precision(precision):
        function = with_gradients(forms.FORMS[name])
        start = time.perf_counter()
        compiled = function.lower(*inputs[0]).compile()
        line = {"compile_seconds": time.perf_counter() - start, **figures(compiled)}
        line["difference"] = correctness.errors({"all": compiled(*inputs[0])}, reference)["all"]
        # The jitted function runs the same program, and takes the host half the time to call.
        line |= milliseconds(functools.partial(_repeated, function, inputs))
    # Each input is read once, and an array of its size is written: y and the three gradients.
    yield {**line, "least_gigabytes": 2 * sum(x.nbytes for x in inputs[0]) / 1e9}


def figures(compiled: Any) -> dict[str, Any]:
    """Memory and kernels of a compiled program; what a loaded one cannot tell is left out."""
    try:
        numbers = aot.figures(compiled)
    except Exception as error:  # a loaded executable may have no text
        return {"no_figures": first_line(error)}
    return {
        name: numbers[name]
        for name in (
            "argument_mb",
            "temporary_mb",
            "kernels",
            "launches",
            "library_calls",
            "gigabytes",
        )
    }


def space(args: argparse.Namespace) -> jd.Space:
    """The published one, or what compiles in seconds."""
    return jd.spaces.darts(1, SMALL) if args.smoke else jd.spaces.darts()


@functools.lru_cache(maxsize=1)
def programs(smoke: bool, dtype: str) -> tuple[dict[str, Callable], tuple]:
    """The steps of a search in a number format, and their arguments."""
    sizes = (
        {"batch_size": 4, "init_channels": 2, "layers": 1, "image_size": 8}
        if smoke
        else {"batch_size": 64}
    )
    defaults = bench.TASKS["search"].defaults | sizes
    return bench.image_search(
        bench.Config(dtype=dtype, **defaults), space(argparse.Namespace(smoke=smoke))
    )


def step_precision(dtype: str) -> str:
    """TF32 is off in float32; in bfloat16 there is nothing to round."""
    return "highest" if dtype == "float32" else "default"


def time_step(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """One step of a search."""
    program, dtype = item.split()
    steps, arguments = programs(args.smoke, dtype)
    line: dict[str, Any] = {}
    with jax.default_matmul_precision(step_precision(dtype)):
        start = time.perf_counter()
        lowered = runs.jitted(steps[program], donate_argnums=tuple(range(KEPT))).lower(*arguments)
        line["trace_seconds"] = time.perf_counter() - start
        start, hits = time.perf_counter(), _cache_hits()
        compiled = lowered.compile()
    line |= {"compile_seconds": time.perf_counter() - start, "from_cache": _cache_hits() > hits}
    line |= figures(compiled)
    state = jax.tree.map(jnp.copy, arguments[:KEPT])  # a step takes the memory of its arguments

    def run(number: int) -> None:
        nonlocal state
        for _ in range(number):
            state = compiled(*state, *arguments[KEPT:])
        jax.block_until_ready(state)

    line |= milliseconds(run, *((0.1, 2) if args.smoke else (2.0, 5)))
    line["examples_per_second"] = 1000 * len(arguments[KEPT]["label"]) / line["ms"]
    line["finite"] = all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        line["peak_mb_of_process"] = memory["peak_bytes_in_use"] / 1e6
    yield line
    if args.profile and args.output:
        profile(lambda: run(3), args.output.parent / f"{item.replace(' ', '-')}.xplane.pb")


def profile(run: Callable[[], Any], path: Path) -> None:
    """Writes what jax.profiler records of a run: a file for TensorBoard, or
    `jax.profiler.ProfileData.from_file`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (record,) = Path(folder).rglob("*.xplane.pb")
        shutil.copy(record, path)


def compare_options(
    args: argparse.Namespace, item: str, seconds: float
) -> Iterator[dict[str, Any]]:
    """The weight step of a small network under some options of XLA: time, and whether its results
    repeat to the bit.
    """
    import device as script

    sizes = {"batch_size": 64, "layers": 3}
    if args.smoke:
        sizes = {"batch_size": 4, "init_channels": 2, "layers": 1, "image_size": 8}
    config = bench.Config(**bench.TASKS["search"].defaults | sizes)
    steps, arguments = bench.image_search(config, space(args))
    with jax.default_matmul_precision("highest"), aot.without_cache():
        lowered = jax.jit(steps["weight_step"]).lower(*arguments)
        start = time.perf_counter()
        compiled = lowered.compile(
            jd.parallel.compiler_options(jax.default_backend()) | script.OPTIONS[item]
        )
    line = {
        "options": script.OPTIONS[item],
        "compile_seconds": time.perf_counter() - start,
        **figures(compiled),
    }
    first, second = (jax.device_get(compiled(*arguments)) for _ in range(2))
    if item == "default":
        _by_default.append(first)
    line["between_runs"] = largest_difference(first, second)
    if _by_default:
        line["as_default"] = same_bits(first, _by_default[0])
    yield line | milliseconds(
        functools.partial(_repeated, compiled, [arguments]), *((0.1, 2) if args.smoke else (1.0, 5))
    )


_by_default: list[Any] = []
"""Results of the default options in this process."""


def largest_difference(a: Any, b: Any) -> float:
    """||a - b|| / ||a|| of the pair of arrays where it is largest; 0 where all bits are equal."""
    if same_bits(a, b):
        return 0.0
    pairs = [
        (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    ]
    return max(float(np.linalg.norm(x - y) / (np.linalg.norm(x) or 1)) for x, y in pairs)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees of arrays hold the same bits."""
    return all(
        x.tobytes() == y.tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


_hits = [0]
jax.monitoring.register_event_listener(
    lambda event, **_: _hits.__setitem__(0, _hits[0] + event.endswith("/cache_hits"))
)


def _cache_hits() -> int:
    """How many programs of this process came from the cache of compiled programs."""
    return _hits[0]


def time_peer(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """The original code's steps under PyTorch, in a process of its own."""
    layout, tf32 = item.split(" tf32=")
    sizes = (
        {"batch": 2, "width": 2, "depth": 3, "size": 8, "repeats": 1}
        if args.smoke
        else {"batch": 64, "repeats": 5}
    )
    on = "cuda" if jax.default_backend() == "gpu" else "cpu"
    yield torch_peer.measure(
        args.peer, channels_last=layout == "channels_last", device=on, tf32=tf32, **sizes
    )


def search_config(args: argparse.Namespace) -> Any:
    """The published setting on the images of a folder."""
    from jaxdarts.commands.search import images as image_search

    config = dataclasses.replace(
        image_search.CIFAR, dtype=args.search_dtype, run_dir=str(args.run_dir), cache_dir=""
    )
    if args.smoke:
        small = {
            "epochs": 2,
            "batch_size": 4,
            "init_channels": 2,
            "layers": 1,
            "nodes": 1,
            "num_devices": 1,
        }
        config = dataclasses.replace(config, ops=SMALL, **small)
    return dataclasses.replace(config, num_devices=1)


def search_images(args: argparse.Namespace, item: str, seconds: float) -> Iterator[dict[str, Any]]:
    """A search, or more epochs of one, for as long as there is time; then its report."""
    from jaxdarts.commands.search import images as image_search

    end = time.monotonic() + seconds
    config, dataset = search_config(args), npz_images.read(args.images)
    folder = Path(config.run_dir)
    if (folder / "checkpoints").is_dir():
        config = dataclasses.replace(config, resume=config.run_dir)
    program = image_search.build(config, dataset)
    line: dict[str, Any] = {"dtype": config.dtype, "images": len(dataset.train.labels)}

    def stop() -> str | None:
        # The report takes ten validations more.
        return "the time is over" if end - time.monotonic() < seconds / 4 else None

    try:
        with runs.open_run(config, "search") as opened:
            image_search.search(config, dataset, program, opened, stop)
    except runs.Stop as error:
        raise RuntimeError(str(error)) from error
    records = jd.files.read_json_lines(folder / "metrics.jsonl")
    line["epochs"] = len(records)
    line["epoch_seconds"] = [round(record["seconds"], 2) for record in records]
    line["minutes_for_all_epochs"] = statistics.median(line["epoch_seconds"]) * config.epochs / 60
    line |= {
        name: records[-1][name]
        for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
    }
    line["genotype"] = (folder / "genotype.json").read_text()
    if args.output:  # beside the other results, where few files are wanted
        for name in ("report.html", "metrics.jsonl", "genotype.json"):
            shutil.copy(folder / name, args.output.parent / f"search-{name}")
    yield line


PARTS: dict[str, Callable[[argparse.Namespace, str, float], Iterator[dict[str, Any]]]] = {
    "machine": machine,
    "correctness": check,
    "forms": time_form,
    "steps": time_step,
    "options": compare_options,
    "peer": time_peer,
    "search": search_images,
}
