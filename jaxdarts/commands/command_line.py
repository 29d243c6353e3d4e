"""Flags of the scripts: what all that train have, and how they are read over presets and over a run that is resumed."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from jaxdarts import runs
from jaxdarts.runs import Stop


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of every script that trains."""

    FREE: ClassVar[str] = (
        "run_dir resume data_dir max_steps num_devices estimate device report_freq checkpoint_freq keep_checkpoints cache_dir"
    )

    dataset: str = "digits"
    """Images: digits, a TFDS name (cifar10, cifar100, svhn_cropped, mnist, ...), npz:PATH or folder:PATH. Texts: pydoc, ptb,
    wikitext2 or text:PATH; they have flags of their own (--dataset=ptb --help)."""
    preset: str | None = None
    """Name of the preset to start from; default the data set's own."""
    data_dir: str | None = None
    """Where TFDS keeps its folders, default $TFDS_DATA_DIR or ~/tensorflow_datasets; or the folder of ptb or wikitext2."""
    run_dir: str | None = None
    """Folder of the run; default runs/<script>-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue from its newest checkpoint; its configuration is taken over."""
    max_steps: int = 0
    """Stop after so many steps, counted from the beginning of the run; 0 for no limit."""
    weight_decay: float = 3e-4
    """Multiple of the weights that is added to their gradient."""
    grad_clip: float = 5.0
    """Largest global norm of the weights' gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the network's computations; weights stay float32."""
    remat: bool = False
    """Recompute cells in the backward pass: less memory, more time."""
    estimate: bool = False
    """Only compile the step and print parameters, memory and steps an epoch; trains and writes nothing."""
    device: str | None = None
    """GPU or TPU that --estimate compiles for, which need not be there (t4, l4, rtx4090, a100, h100, h200, v5e or v6e) and
    whose memory it compares with what a step takes; default this machine's device."""
    seed: int = 2
    """Determines everything that is random."""
    num_devices: int | None = None
    """Number of local devices to split batches over; default all."""
    report_freq: int = 50
    """Steps between log lines."""
    checkpoint_freq: int = 0
    """Steps between checkpoints, besides the one after every epoch; 0 for none."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; 0 for all."""
    cache_dir: str = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxdarts")
    """Where compiled programs are kept for the next start; empty for nowhere."""


@dataclasses.dataclass(frozen=True)
class ImageSettings(Settings):
    """And of those that train on images."""

    crop_padding: int = 4
    """Random shifts of the images, in pixels."""
    flip: bool = True
    """Mirror half of the images; not for digits."""
    cutout: bool = False
    """Erase a square of every training image."""
    cutout_length: int = 16
    """Side of that square, in pixels."""
    momentum: float = 0.9
    """Momentum of SGD, which trains the weights."""


def parse(
    arguments: list[str],
    presets: Mapping[str, Any],
    fallback: Any,
    description: str | None,
    starts: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType({}),
) -> Any:
    """Flags over the configuration of the run to resume, or over a preset: the one that --preset names, or the data set's own.

    Args:
        arguments: the command line, without the name of the script.
        presets: configurations (frozen dataclasses) by name; the first one is that of a plain start.
        fallback: what a data set without a preset starts from.
        description: the head of `--help`.
        starts: for other flags that change what the rest starts from: (preset, the flag's value or "") -> configuration.
    """
    import tyro  # here, so that a program that sets a configuration itself runs without it

    given = {"--dataset": "", "--preset": "", "--resume": "", **dict.fromkeys(starts, "")}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in given:
            given[name] = value if equals else " ".join(arguments[i + 1 : i + 2])
    resume, kind = given["--resume"], type(fallback)
    if resume:
        path = Path(resume) / "config.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            default = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise Stop(f"--resume={resume}: not the folder of a run, no usable {path}: {error}", 2) from error
    else:
        default = preset(given["--preset"], given["--dataset"], presets, fallback)
        for flag, start in starts.items():
            default = start(default, given[flag])
    markers = (tyro.conf.DisallowNone,)  # None is a default only, not a value to give
    config = tyro.cli(kind, args=arguments, default=default, description=description, use_underscores=True, config=markers)
    if not config.resume:
        return config
    may_change = runs.free(kind)
    for field in dataclasses.fields(kind):
        old, new = getattr(default, field.name), getattr(config, field.name)
        if old != new and field.name not in may_change:
            raise Stop(f"--resume={resume}: the run has {field.name}={old!r}, not {new!r}; leave the flag out", 2)
    return dataclasses.replace(config, run_dir=resume)


def preset(name: str, dataset: str, presets: Mapping[str, Any], fallback: Any) -> Any:
    """What the flags are laid over; either text may be empty, for a flag that is not given."""
    if name and name not in presets:
        raise Stop(f"--preset={name}: there are {', '.join(presets)}", 2)
    own = next((found for found in presets.values() if found.dataset == dataset), fallback)
    found = presets[name] if name else own if dataset else next(iter(presets.values()))
    return dataclasses.replace(found, dataset=dataset or found.dataset)
