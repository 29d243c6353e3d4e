"""What the scripts share: the run folder, signals, the loop, records that survive a kill, and one-line errors."""

import contextlib
import dataclasses
import gc
import json
import logging
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

import jaxdarts as jd
import locks
from jaxdarts import aot
from jaxdarts.data import images, stream
from signals import Asked, interruptible

OF_A_START = frozenset("resume run_dir coordinator num_hosts host".split())
"""Settings that a run folder does not keep."""


class Stop(Exception):
    """Ends the run with one line; everything written so far stays."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(" ".join(message.split()))
        self.code = code


def free(kind: type) -> frozenset[str]:
    """The settings that a resumed run may change: in FREE of its configuration's class and of those that it inherits from.

    What is trained stays; what is made of it, or set beside it, may change.
    """
    return frozenset(" ".join(getattr(own, "FREE", "") for own in kind.__mro__).split())


def check_numbers(config: Any, positive: str, not_negative: str) -> None:
    """Refuses settings, named in two lists, that are not positive or that are negative; NaN too."""
    for name in positive.split():
        if not getattr(config, name) > 0:
            raise Stop(f"--{name}={getattr(config, name)}: must be positive", 2)
    for name in not_negative.split():
        if not getattr(config, name) >= 0:
            raise Stop(f"--{name}={getattr(config, name)}: must not be negative", 2)


def check_seeds_and_devices(config: Any) -> None:
    """Refuses seeds out of range, more devices than there are, and batches that do not divide over them."""
    if config.seed + config.num_seeds > 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
    if config.device is not None and not config.estimate:
        raise Stop(f"--device={config.device}: only with --estimate; a run takes the devices that are there", 2)
    if config.device is not None and config.num_devices not in (None, 1):
        raise Stop(f"--num_devices={config.num_devices}: --device is one device; leave --num_devices out", 2)
    number = len(devices(config))
    found = jax.local_device_count()
    if config.num_devices is not None and not 1 <= config.num_devices <= found:
        raise Stop(f"--num_devices={config.num_devices}: this machine has {found}", 2)
    if config.batch_size % number:
        raise Stop(f"--batch_size={config.batch_size}: does not divide over {number} devices", 2)


def devices(config: Any) -> list[Any]:
    """The devices that batches are split over: this machine's, or the one of --device, which can only be compiled for."""
    if config.device is None:
        return jd.parallel.devices(config.num_devices)
    jax.config.update("jax_platforms", "cpu")  # before JAX looks for GPUs, takes their memory, or complains that there are none
    try:
        return list(aot.target(config.device).devices[:1])
    except (ValueError, RuntimeError) as error:
        raise Stop(f"--device={config.device}: {error}", 2) from error


def cosine_rate(config: Any, epoch: Any, cos: Callable = jnp.cos) -> Any:
    """Learning rate of the weights in an epoch; `cos` is math.cos where it is to be a plain number.

    The cosine of DARTS' official code ends at learning_rate_min, the paper's at zero.
    """
    span = config.learning_rate - config.learning_rate_min
    return config.learning_rate_min + 0.5 * span * (1 + cos(math.pi * epoch / config.epochs))


def weights_optimizer(config: Any, rate: Callable[[Any], Any], steps_per_epoch: int) -> optax.GradientTransformation:
    """The published optimiser of weights; rate: epoch, a traced integer -> learning rate."""

    def schedule(step):
        return rate(jnp.minimum(step // steps_per_epoch, config.epochs))

    # On one long vector: leaf by leaf an update is hundreds of small programs within the step's, each to be compiled.
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(config.grad_clip),
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=config.momentum),
        )
    )


def frozen(config: Any) -> dict[str, Any]:
    """The settings that a checkpoint belongs to, as JSON reads them back."""
    dropped = free(type(config))
    return {name: value for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items() if name not in dropped}


class Run(NamedTuple):
    """An open run: its folder, its log, its checkpoints, what was asked of it, and the folder to resume."""

    folder: Path
    log: logging.Logger
    checkpoints: Any
    asked: Asked
    again: Path

    def leave(self, number: int, step: int, total: int) -> Stop:
        """The end that a signal asked for, once everything is saved."""
        name = signal.Signals(number).name
        return Stop(f"{name} at step {step} of {total}: saved; continue with --resume={self.again}", 128 + number)


def folder_of(config: Any, kind: str) -> Path:
    """The run's folder, named after the script, the data set and the time unless --run_dir names it."""
    return Path(config.run_dir or f"runs/{kind}-{config.dataset.partition(':')[0]}-{time.strftime('%Y%m%d-%H%M%S')}")


def open_folder(config: Any, kind: str) -> tuple[Path, logging.Logger]:
    """Makes or opens the run folder, with its configuration and its log; nobody else may while the log is open."""
    folder = folder_of(config, kind)
    if not config.resume and any((folder / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints")):
        raise Stop(f"--run_dir={folder}: holds a run; continue it with --resume={folder} or name another", 2)
    try:
        log = locks.logger(folder)
        if not config.resume:
            saved = {name: value for name, value in dataclasses.asdict(config).items() if name not in OF_A_START}
            jd.files.replace_text(folder / "config.json", json.dumps(saved, indent=2) + "\n")
        return folder, log
    except locks.Locked as error:
        raise Stop(f"--run_dir={folder}: another run is writing there; wait for its end, or name another folder", 2) from error
    except OSError as error:
        raise Stop(f"--run_dir={folder}: cannot write there: {error}") from error


@contextlib.contextmanager
def open_run(config: Any, kind: str, whole: Path | None = None) -> Iterator[Run]:
    """Opens the run, and turns what can go wrong in it into one line; `whole` is the folder of the run that it is a part of."""
    folder, log = open_folder(config, kind)
    again = whole or folder
    try:
        with (
            jd.runs.checkpoint.open_folder(folder / "checkpoints", config.keep_checkpoints or None) as checkpoints,
            interruptible(again, log) as asked,
        ):
            yield Run(folder, log, checkpoints, asked, again)
    except jd.runs.checkpoint.CheckpointError as error:
        raise Stop(f"{error}; continue with --resume={again}") from error
    except stream.Unreadable as error:
        raise Stop(f"{error}; with the image restored, continue with --resume={again}") from error
    except OSError as error:
        raise Stop(f"cannot write into {folder}: {error}; continue with --resume={again}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Stop("out of memory: try --remat or a smaller --batch_size; --estimate tells what a step takes") from error
    finally:
        jd.runs.writers.close_logger(log)


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean and deviation of one number a seed; a single one has no deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation}


def mean_and_deviation(values: Sequence[float] | np.ndarray, scale: float = 1.0, digits: int = 3, unit: str = "") -> str:
    """The same as text."""
    shown = [f"{scale * value:.{digits}f}{unit}" for value in spread(values).values() if value is not None]
    return " +- ".join(shown)


def finite(step: int, flags: str, **values: np.ndarray) -> None:
    """Ends the run where a number is none, so that nothing bad is ever saved; `flags` are those to lower."""
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise Stop(
                f"{name} is not finite at step {step}: start again with a lower {flags}; what was saved before is intact"
            )


def restored(config: Any, run: Run, training: Any) -> tuple[Any, float]:
    """What the newest checkpoint holds, or what a new run starts from; and the seconds that its epoch took so far."""
    saved = {**training, "seconds": jnp.float32(0)}
    if config.resume and run.checkpoints.latest_step() is not None:
        saved = jd.runs.checkpoint.restore(run.checkpoints, saved, frozen(config))
    saved = jd.parallel.of_first_host(saved)
    seconds = float(saved.pop("seconds"))
    return saved, seconds


def checkpoint_form(init: Callable[[], Any]) -> Any:
    """What a checkpoint of a program with this `init` is restored as; only shapes and types, nothing is computed."""
    # It is read onto this device, wherever it was written.
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    form = {**jax.eval_shape(init), "seconds": jax.ShapeDtypeStruct((), jnp.float32)}
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), form)


def ends(config: Any, length: int | np.ndarray) -> np.ndarray:
    """The step at which each epoch ends; `length` is the steps an epoch, one number for all or one for each."""
    return np.cumsum(np.broadcast_to(length, config.epochs))


def place(config: Any, step: int, length: int | np.ndarray) -> tuple[int, int]:
    """The epoch that a step belongs to, and its place in it."""
    epoch = int(np.searchsorted(ends(config, length), step, side="right"))
    return epoch, step - int(ends(config, length)[epoch - 1] if epoch else 0)


def kept_step(config: Any, step: int, length: int | np.ndarray) -> int:
    """The records to keep on resuming: that of an epoch which --max_steps cut short goes when that epoch goes on."""
    return step if step >= total_steps(config, length) else step - place(config, step, length)[1]


def total_steps(config: Any, length: int | np.ndarray) -> int:
    """The step to stop after."""
    total = int(ends(config, length)[-1])
    return min(total, config.max_steps or total)


def shown_of_images(means: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    """What a log line and the bar tell of a classifier."""
    loss, accuracy, top5 = (float(np.mean(means[f"train_{name}"])) for name in ("loss", "accuracy", "top5"))
    return f"{loss:e} {100 * accuracy:f} {100 * top5:f}", {"loss": loss, "accuracy": accuracy}


def epochs(
    config: Any,
    run: Run,
    training: Any,
    seconds: float,
    length: int | np.ndarray,
    *,
    begin: Callable[[int], Callable[[Any, int], Any]],
    averages: Callable[[Any, int, int], dict[str, np.ndarray]],
    check: Callable[[Any, int], None],
    end: Callable[[Any, dict[str, np.ndarray], int, int, float], str | None],
    shown: Callable[[Mapping[str, np.ndarray]], tuple[str, dict[str, float]]] = shown_of_images,
) -> Any:
    """The loop of every training: steps with their log lines, a record and a checkpoint after each epoch, signals heeded.

    Args:
        config, run: the settings and the open run.
        training: {"state", "sums"}, replicated over the devices: the state, and sums of metrics since the epoch began.
        seconds: that the epoch took before.
        length: steps an epoch, one number for all or one for each.
        begin: epoch -> (training, place in the epoch) -> training after the step.
        averages: (sums, their number, step) -> means, by names that `shown` knows; NaN ends the run.
        check: (training of one device, step); refuses to save what is not finite.
        end: (training, means, epoch, step, seconds): writes the epoch down, and may change training["state"], which is saved
            after it; returns why to stop here, or None.
        shown: means -> a log line's text and the bar's numbers.

    Returns:
        The training at the end.
    """
    log, asked = run.log, run.asked
    step, total = int(np.ravel(jd.parallel.first(training["state"].step))[0]), total_steps(config, length)
    bar = jd.runs.writers.console(total)

    def save() -> None:
        tree = jd.parallel.first(training)
        check(tree, step)
        jd.runs.checkpoint.save(run.checkpoints, step, {**tree, "seconds": jnp.float32(seconds)}, frozen(config))
        multihost_utils.sync_global_devices(f"checkpoint {step}")  # the others leave when it is there

    try:
        while step < total:
            epoch, position = place(config, step, length)
            start = told = time.monotonic() - seconds
            take = begin(epoch)
            if position == 0:
                training["sums"] = jax.tree.map(jnp.zeros_like, training["sums"])
            last = min(int(ends(config, length)[epoch]), total) - (step - position) - 1
            for i in range(position, last + 1):
                if not asked.stepped.is_set():
                    where = f"; the next start reads {config.cache_dir}" if config.cache_dir else ""
                    log.info("compiling the step, which can take minutes%s", where)
                training = take(training, i)
                step += 1
                if not asked.stepped.is_set():
                    jax.block_until_ready(training)
                    log.info("the first step took %.1f s", time.monotonic() - start - seconds)
                    asked.stepped.set()
                reported = step % config.report_freq == 0 or i == last
                leaving, now = asked.leaving(reported), time.monotonic()
                if reported or leaving or now - told > 1:
                    means, told = averages(training["sums"], i + 1, step), now
                    line, numbers = shown(means)
                    if reported:
                        log.info("train %03d %s", i, line)
                    bar.write(step, {"epoch": epoch, **numbers})
                # The last step's checkpoint waits for the epoch's record, which could not be made up for later.
                if i < last and (leaving or (config.checkpoint_freq and step % config.checkpoint_freq == 0)):
                    seconds = time.monotonic() - start
                    save()
                    if leaving:
                        raise run.leave(leaving, step, total)
            seconds = time.monotonic() - start
            reason = end(training, means, epoch, step, seconds)
            if step == ends(config, length)[epoch]:
                seconds = 0.0
            save()
            if leaving := asked.leaving(True):
                raise run.leave(leaving, step, total)
            if reason:
                log.info("the search stops: %s", reason)
                return training
        if step < ends(config, length)[-1]:
            log.info("--max_steps=%d of %d steps are done", config.max_steps, ends(config, length)[-1])
        return training
    finally:
        bar.close()


class Records:
    """metrics.jsonl and TensorBoard events; a resumed run drops what was written after `resume_step`, its checkpoint."""

    def __init__(self, folder: Path, resume_step: int):
        self.path = folder / "metrics.jsonl"
        try:
            lines = jd.runs.writers.json_lines(self.path, resume_step)
            self.all = jd.files.read_json_lines(self.path)
        except ValueError as error:
            raise Stop(f"{error}; remove the file to continue without it") from error
        # Events may have died in a buffer: a resumed run hides the old ones and writes all of them again.
        try:
            events = jd.runs.writers.tensorboard(folder / "tensorboard", 0 if (folder / "tensorboard").exists() else None)
        except ImportError as error:
            print(f"{folder}: no events: {error}", file=sys.stderr)
            events = jd.runs.writers.combine()
        for record in self.all:
            values = {name: value for name, value in record.items() if name != "step" and value is not None}
            events.write(record["step"], values)
        self.writer = jd.runs.writers.combine(lines, events)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        self.writer.write(step, record)
        self.all = jd.files.read_json_lines(self.path)

    def close(self) -> None:
        self.writer.close()


def analyses(folder: Path) -> list[jd.report.sections.Section]:
    """What analyze.py has found out about a run, for its report."""
    try:
        return jd.report.sections.gather(folder)
    except ValueError as error:
        raise Stop(str(error)) from error


def load(config: Any, read: Callable[..., Any] = images.load) -> Any:
    """The images that --dataset and --data_dir name, by `images.load` or another function of the two."""
    try:
        return read(config.dataset, config.data_dir)
    except (OSError, ValueError, ImportError) as error:
        raise Stop(f"--dataset={config.dataset}: {error}") from error


def jitted(function: Callable, **options: Any) -> Any:
    """`jax.jit`, with what XLA should know of our programs."""
    return jax.jit(function, compiler_options=jd.parallel.compiler_options(jax.default_backend()), **options)


def estimate(
    config: Any, step: jd.parallel.OnDevices, devices: Sequence[Any], arguments: Any, length: Any, programs: int = 1
) -> float:
    """Prints what a run would take, from the compilation of its step.

    Args:
        config: the run's; it names the epochs, and the device if that is not this machine's.
        step: mapped over `devices`.
        devices: those that the run was built for.
        arguments: of the shapes of one device.
        length: the steps an epoch, one number for all or one for each.
        programs: how many of the kind of `step` the run compiles.

    Returns:
        Megabytes that a step takes on a device; NaN where the compiler finds no room for it.
    """
    steps = f"{length:,}" if np.ndim(length) == 0 else f"about {np.mean(length):,.0f}"
    print(f"steps an epoch               {steps}, {config.epochs} epochs, {total_steps(config, length):,} in all")
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), arguments)
    lower = "lower --batch_size" if config.remat else "lower --batch_size or give --remat"
    start = time.time()
    try:
        compiled = step.compile(*abstract)
    except jax.errors.JaxRuntimeError as error:  # of a TPU's compiler, which places every array
        if config.device is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"does not fit in one {config.device}: {str(error).splitlines()[0]}; {lower}")
        return math.nan
    seconds, found = time.time() - start, compiled.memory_analysis()
    taken = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    taken -= found.alias_size_in_bytes  # donated arguments count once
    print(f"memory of a step{' (remat)' if config.remat else '        '}     {taken / 1e6:,.1f} MB a device")
    print(f"compilation                  {seconds:.0f} s{f', for {programs} lengths of windows' if programs > 1 else ''}")
    if config.device is not None:
        print(f"kernels of a step            {aot.figures(compiled)['kernels']:,}")
        print(fits(config.device, taken, lower))
    return taken / 1e6


def fits(device: str, taken: int, lower: str) -> str:
    """Whether so many bytes fit in the memory of a device, as a sentence; `lower` says what to do where they do not."""
    has = aot.target(device).memory
    size = f"{has / 2**30:,.0f} GiB"
    if taken > has:
        return f"does not fit: it needs {taken / 2**30:,.1f} GiB, one {device} has {size}; {lower}"
    if device in aot.GPUS and taken > 0.75 * has:  # what JAX takes of a GPU unless it is told otherwise
        return f"fits in the {size} of one {device} with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95; JAX's default is 0.75"
    return f"fits in the {size} of one {device}"


def _without_places(flags: Sequence[str]) -> list[str]:
    """Flags but for those that say where files lie on this machine, which is no part of a result."""
    places = tuple("--output --run_dir --resume --peer --data_dir --cache_dir --table --scheduler".split())
    kept: list[str] = []
    value_of_place = False
    for flag in flags:
        # --scores is a file for discrete.py, names for score.py.
        place = flag.startswith(places) or (flag.startswith("--scores") and "/" in flag)
        if not place and not value_of_place:
            kept.append(flag)
        value_of_place = place and "=" not in flag
    return kept


def versions() -> dict[str, Any]:
    """What a result must say about where it comes from."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    device, script, root = jax.local_devices()[0], Path(sys.argv[0]).resolve(), Path(__file__).resolve().parents[1]
    name = str(script.relative_to(root)) if script.is_relative_to(root) else f"experiments/{script.name}"
    return {
        "command": shlex.join(["python", name, *_without_places(sys.argv[1:])]),
        "commit": commit,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "device": f"{device.platform}: {device.device_kind}",
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def use_cache(config: Any) -> None:
    """Keeps compiled programs for the next start."""
    if config.cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir).expanduser()))


def set_up() -> None:
    """What makes a script faster: huge pages; `jaxdarts.parallel.XLA_FLAGS`, but for what the user sets; less collecting.

    A traced step is a million Python objects that live on, and Python looks through them again and again for garbage: a quarter
    of the tracing.
    """
    ask_for_huge_pages()
    own = os.environ.get("XLA_FLAGS", "")
    ours = [flag for flag in jd.parallel.XLA_FLAGS.split() if flag.partition("=")[0] not in own]
    os.environ["XLA_FLAGS"] = " ".join([own, *ours]).strip()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def ask_for_huge_pages(setting: Path = Path("/sys/kernel/mm/transparent_hugepage/enabled")) -> None:
    """Starts the script anew, once, with glibc told to ask Linux for huge pages, where Linux gives them to those who ask.

    XLA allocates the temporary memory of a step (1.3 GB for the published supernet) on a CPU anew for every step, and each of
    its 300,000 small pages is a fault: a third of a weight step. glibc reads its tunables when a process starts, and only then.
    Who sets glibc.malloc.hugetlb in GLIBC_TUNABLES, to 0 for instance, is left alone; so is a Python that runs no script, or
    only shows its help.
    """
    own, script = os.environ.get("GLIBC_TUNABLES", ""), getattr(sys.modules["__main__"], "__file__", None)
    if script is None or Path(script).resolve().parent != Path(__file__).resolve().parent or {"-h", "--help"} & set(sys.argv):
        return
    if "glibc.malloc.hugetlb" not in own and setting.is_file() and "[madvise]" in setting.read_text():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [own, "glibc.malloc.hugetlb=1"]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def start(main: Callable[[list[str]], None]) -> None:
    """Runs a script: one line and an exit code for whatever stops it."""
    script = Path(sys.argv[0]).name
    set_up()
    try:
        main(sys.argv[1:])
    except Stop as stop:
        print(f"{script}: {stop}", file=sys.stderr, flush=True)
        # Not sys.exit: after a full disk tensorboardX would try again to write its buffer, and fail with a traceback.
        os._exit(stop.code)
    except KeyboardInterrupt:
        print(f"{script}: interrupted before there was anything to save", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
