"""Flags of the scripts: what all that train have, and how they are read over presets and over a run
that is resumed.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from jaxdarts import runs
from jaxdarts.runs import Stop

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of every script that trains."""

    FREE: ClassVar[str] = (
        "run_dir resume data_dir max_steps num_devices estimate device report_freq checkpoint_freq"
        " keep_checkpoints cache_dir"
    )

    dataset: str = "digits"
    """Data set. Images: digits, a TFDS name (cifar10, cifar100, svhn_cropped, mnist, ...), npz:PATH
    or folder:PATH. Texts: pydoc, ptb, wikitext2 or text:PATH; texts have other flags
    (--dataset=ptb --help)."""
    preset: str | None = None
    """Preset that the other flags start from; default the data set's."""
    data_dir: str | None = None
    """Folder in which TFDS keeps its data sets, default $TFDS_DATA_DIR or ~/tensorflow_datasets;
    for ptb and wikitext2, the folder of the text."""
    run_dir: str | None = None
    """Folder of the run; default runs/<command>-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue from its newest checkpoint, with its configuration."""
    max_steps: int = 0
    """Stop after this number of steps, counted from the beginning of the run; 0 for no limit."""
    weight_decay: float = 3e-4
    """Weight decay: this multiple of the weights is added to their gradient."""
    grad_clip: float = 5.0
    """Gradients of the weights are clipped to this global norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the network's computations; weights and sums stay float32."""
    remat: bool = False
    """Recompute cells in the backward pass: less memory, more time."""
    estimate: bool = False
    """Compile the step, print parameters, memory and steps an epoch, and end; nothing is trained or
    written."""
    device: str | None = None
    """GPU or TPU for which --estimate compiles, which need not be in this machine: t4, l4, rtx4090,
    a100, h100, h200, v5e or v6e; default this machine's device."""
    seed: int = 2
    """Seed of everything that is random."""
    num_devices: int | None = None
    """Number of local devices over which batches are split; default all."""
    report_freq: int = 50
    """Steps between log lines."""
    checkpoint_freq: int = 0
    """Steps between checkpoints, in addition to one after every epoch; 0 for none."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; 0 for all."""
    cache_dir: str = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxdarts")
    """Folder of compiled programs, which the next start reads; empty for no cache."""


@dataclasses.dataclass(frozen=True)
class ImageSettings(Settings):
    """Flags of every command that trains on images."""

    crop_padding: int = 4
    """Training images are shifted at random by up to this number of pixels."""
    flip: bool = True
    """Mirror half of the training images; off for digits."""
    cutout: bool = False
    """Erase a random square of every training image (Cutout)."""
    cutout_length: int = 16
    """Side of the square that --cutout erases, in pixels."""
    momentum: float = 0.9
    """Momentum of SGD."""


def parse(
    arguments: list[str],
    presets: Mapping[str, Any],
    fallback: Any,
    description: str | None,
    starts: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType({}),
) -> Any:
    """Flags over the configuration of the run to resume, or over a preset: the one that --preset
    names, or the data set's own.

    Args:
        arguments: the command line, without the name of the script.
        presets: configurations (frozen dataclasses) by name; the first one is that of a plain
          start.
        fallback: what a data set without a preset starts from.
        description: the head of `--help`.
        starts: for other flags that change what the rest starts from: (preset, the flag's value or
          "") -> configuration.
    """
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
            default = kind(
                **{
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in saved.items()
                }
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise Stop(
                f"--resume={resume}: not the folder of a run, no usable {path}: {error}", 2
            ) from error
    else:
        default = preset(given["--preset"], given["--dataset"], presets, fallback)
        for flag, start in starts.items():
            default = start(default, given[flag])
    config = read(kind, arguments, default, description)
    if not config.resume:
        return config
    may_change = runs.free(kind)
    for field in dataclasses.fields(kind):
        old, new = getattr(default, field.name), getattr(config, field.name)
        if old != new and field.name not in may_change:
            raise Stop(
                f"--resume={resume}: the run has {field.name}={old!r}, not {new!r}; leave the"
                " flag out",
                2,
            )
    return dataclasses.replace(config, run_dir=resume)


def read(kind: type[T], arguments: list[str], default: T, description: str | None) -> T:
    """A configuration from flags over a default one, by tyro."""
    # here, so that a program that sets a configuration itself runs without them
    import docstring_parser
    import tyro

    # tyro keeps the line breaks of a help text that has several lines, so each gets its text as one
    # line.
    texts: dict[str, str] = {}
    for owner in kind.__mro__[:-1]:
        for text in docstring_parser.parse_from_object(owner).meta:
            texts.setdefault(text.args[1], " ".join((text.description or "").split()))
    annotations = {
        field.name: Annotated[field.type, tyro.conf.arg(help=texts.get(field.name))]  # pyrefly: ignore
        for field in dataclasses.fields(kind)  # pyrefly: ignore
    }
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(kind)}  # pyrefly: ignore
    with_help = dataclasses.make_dataclass(
        kind.__name__,
        [
            (name, annotation, dataclasses.field(default=values[name]))
            for name, annotation in annotations.items()
        ],
    )
    markers = (tyro.conf.DisallowNone,)  # None is a default only, not a value to give
    found = tyro.cli(
        with_help,
        args=arguments,
        default=with_help(**values),
        description=description,
        use_underscores=True,
        config=markers,
    )
    return kind(**vars(found))


def preset(name: str, dataset: str, presets: Mapping[str, Any], fallback: Any) -> Any:
    """What the flags are laid over; either text may be empty, for a flag that is not given."""
    if name and name not in presets:
        raise Stop(f"--preset={name}: there are {', '.join(presets)}", 2)
    own = next((found for found in presets.values() if found.dataset == dataset), fallback)
    found = presets[name] if name else own if dataset else next(iter(presets.values()))
    return dataclasses.replace(found, dataset=dataset or found.dataset)
