"""Write a trained network as one file for other programs.

    jaxdarts export runs/eval-digits-20260102-030405 --format=onnx --output=digits.onnx

The file takes images as they are stored (uint8), in batches of any size: normalisation and weights
are inside, and an ONNX file also holds the names of the classes. ONNX needs more packages: pip
install "jaxdarts[onnx]". Its results are compared with JAX' before it is written, and the times of
both for one image on one core are printed.

An ONNX file lasts. A file of jax.export can be read for six months of JAX' releases only: keep the
run folder, of which it can be made again.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from jaxdarts.commands import checks, command_line, timing
from jaxdarts.data.optional import require
from jaxdarts.runs import Stop, flag, jitted
from jaxdarts.runs.flags import POSITIVE
from jaxdarts.training import export

TOLERANCE = 1e-4
"""Largest difference to JAX' results, as a share of the largest result where that is above 1."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Write a trained network as one file for other programs."""

    COMMAND: ClassVar[str] = "export"
    TOPIC: ClassVar[str] = "subject"

    run: str = flag("", "Run folder of jaxdarts evaluate.", positional=True)
    format: Literal["jax", "onnx"] = flag(
        "jax",
        "Kind of file: onnx for ONNX Runtime and other programs, or jax for jax.export, which JAX"
        " reads for six months only.",
    )
    output: str | None = flag(
        None, "File to write; default network.onnx or network.bin in the run folder."
    )
    repeats: int = flag(20, "Number of runs of which the median time is printed.", POSITIVE)


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    if not config.run:
        raise Stop("name the run folder of a trained network; see --help", 2)
    checks.check_flags(config)
    name = {"jax": "network.bin", "onnx": "network.onnx"}[config.format]
    path = Path(config.output) if config.output else Path(config.run) / name
    try:
        with timing.on_cores(1):
            FORMATS[config.format](config, path)
    except (ValueError, ModuleNotFoundError) as error:
        text = str(error)  # that of a folder without a network names it
        raise Stop(text if config.run in text else f"{config.run}: {text}", 2) from error
    except OSError as error:
        raise Stop(f"--output={path}: cannot write there: {error}") from error
    print(f"wrote {path}, {path.stat().st_size:,} bytes")


def write_jax(config: Config, path: Path) -> None:
    """A file of `jax.export`."""
    export.export(config.run, path)
    print(
        f"{path.name} is readable for six months of JAX' releases (this is {jax.__version__}): keep"
        " the run folder, and export it again then"
    )


def write_onnx(config: Config, path: Path) -> None:
    """An ONNX file that has been compared with JAX."""
    runtime = require("onnxruntime", '"jaxdarts[onnx]"', "the check of a file for ONNX")
    facts = export.facts_of(config.run)
    inputs = examples(facts)
    apply, params = export.load(config.run)
    function = jitted(apply)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "network.onnx"
        export.export_onnx(config.run, written)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(
            str(written), options, providers=["CPUExecutionProvider"]
        )
        worst = 0.0
        for expected, result in zip(
            jax.tree.leaves(function(params, *inputs.values())), session.run(None, inputs)
        ):
            scale = max(1.0, float(np.abs(np.asarray(expected)).max()))
            worst = max(worst, float(np.abs(np.asarray(expected) - result).max()) / scale)
        if not worst <= TOLERANCE:
            raise Stop(
                f"{config.run}: ONNX Runtime differs from JAX by {worst:.1e}, more than"
                f" {TOLERANCE:.0e}: no file is written"
            )
        print(f"largest difference to JAX    {worst:.1e}")
        one = {
            name: value[..., :1] if name == "tokens" else value[:1]
            for name, value in inputs.items()
        }
        subject = "a text of 8 words" if "num_words" in facts else "an image"
        for runs_in, call in (
            ("ONNX Runtime", lambda: session.run(None, one)),
            ("JAX", lambda: jax.block_until_ready(function(params, *one.values()))),
        ):
            milliseconds = 1e3 * timing.median_time(call, config.repeats)
            print(f"{subject} on one core, {runs_in:12} {milliseconds:.2f} ms")
        os.replace(written, path)


FORMATS: Mapping[str, Callable[[Config, Path], None]] = {"jax": write_jax, "onnx": write_onnx}
"""What --format names."""


def examples(facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Random inputs of a network, a batch of four."""
    random = np.random.RandomState(0)
    if "num_words" in facts:
        return {
            "tokens": random.randint(0, facts["num_words"], (8, 4)).astype(np.int32),
            "hidden": np.zeros((4, facts["width"]), np.float32),
        }
    return {"images": random.randint(0, 256, (4, *facts["image_shape"])).astype(np.uint8)}
