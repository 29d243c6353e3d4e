"""Subjects of analyze.py: a finished run, and a loss as a function of its parameters.

The parameters are its weights or its architecture parameters.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import data, files, runs
from jaxdarts.analysis import landscape
from jaxdarts.bilevel import last_step
from jaxdarts.commands import checks, command_line, datasets, flags, methods, programs
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.evaluate import recipes
from jaxdarts.commands.search import images as image_search
from jaxdarts.data import images
from jaxdarts.report import sections
from jaxdarts.report.page import extend
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE
from jaxdarts.space import Choices
from jaxdarts.training.export import load

VARIANTS = POSITIVE._replace(most=10_000)
"""Numbers of variants of a cell."""


@dataclasses.dataclass(frozen=True)
class Options(flags.Seed):
    """Flags of every analysis."""

    TOPIC: ClassVar[str] = "subject"

    runs: tuple[str, ...] = flag(
        (),
        "Run folders of searches or trainings; of a run with several seeds, a folder RUN/seed-N.",
        positional=True,
    )
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class OfSearches(Options):
    """Flags of analyses that only a search has the data for."""

    TOPIC: ClassVar[str] = "subject"

    runs: tuple[str, ...] = flag(
        (),
        "Run folders of searches; of a run with several seeds, a folder RUN/seed-N.",
        positional=True,
    )


@dataclasses.dataclass(frozen=True)
class OnImages(Options, flags.Cache):
    """Flags of analyses that compute a loss."""

    TOPIC: ClassVar[str] = "measurement"

    part: Literal["train", "valid", "test", "own"] = flag(
        "own",
        "Images: train, valid or test; own stands for the validation half of a search, and the test"
        " images of a training.",
    )
    images: int = flag(
        512,
        "Number of images, the first of the part; an incomplete last batch is left out.",
        POSITIVE,
    )
    batch_size: int = flag(0, "Images in a batch; 0 for the batch size of the run.", NOT_NEGATIVE)
    data_dir: str | None = flag(
        None, "Folder of the data set; default the folder that the run used."
    )


@dataclasses.dataclass(frozen=True)
class Measured(OnImages):
    """Flags of analyses of a loss as a function of weights or alpha."""

    of: Literal["weights", "alpha", "either"] = flag(
        "either",
        "Parameters that vary: the weights, or alpha of a search; either stands for alpha of a"
        " search and the weights of a training.",
    )


class Opened(NamedTuple):
    """A run.

    folder: of one seed.
    root: the run folder, which is `folder` unless the run has several seeds.
    settings: its config.json.
    seed_index: the number of the seed among the run's.
    command, kind: what wrote it, as of `runs.origin`.
    """

    folder: Path
    root: Path
    settings: Mapping[str, Any]
    seed_index: int
    command: str
    kind: str

    @property
    def searched(self) -> bool:
        """Whether it is a search, and not the training of a cell."""
        return self.command == "search"

    @property
    def name(self) -> str:
        """A few words that tell it from others."""
        seed = self.settings.get("seed", 0) + self.seed_index
        what = self.settings.get("algorithm", "darts") if self.searched else "trained cell"
        return f"{what} on {str(self.settings['dataset']).partition(':')[0]}, seed {seed}"


T = TypeVar("T", bound=Options)


def parse(kind: type[T], arguments: Sequence[str], description: str | None) -> T:
    """Flags of one analysis."""
    config = command_line.read(kind, arguments, kind(), description)
    checks.check_flags(config)
    if not config.runs:
        raise Stop("name one run folder or more", 2)
    for field in dataclasses.fields(config):
        if isinstance(field.default, tuple) and field.default and not getattr(config, field.name):
            raise Stop(f"--{field.name}: give one value or more, or leave the flag out", 2)
    return config


def open_run(text: str) -> Opened:
    """The run that a folder holds."""
    folder = Path(text)
    inside = folder.name.startswith("seed-") and not (folder / "config.json").exists()
    root = folder.parent if inside and folder.is_dir() else folder
    saved = command_line.saved(str(root), "")
    settings = saved.settings
    try:
        first, count = int(settings["seed"]), int(settings.get("num_seeds", 1))
        seed_index = int(folder.name.removeprefix("seed-")) - first if inside else 0
        dataset = settings["dataset"]
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(
            f"{text}: not the folder of a run, no usable {root / 'config.json'}: {error!r}", 2
        ) from error
    if not isinstance(dataset, str):
        raise Stop(f"{root / 'config.json'}: dataset={dataset!r} is no name", 2)
    if root == folder and count > 1:
        raise Stop(f"{text}: a run of {count} seeds; name one: {folder / f'seed-{first}'}, ...", 2)
    return Opened(folder, root, settings, seed_index, saved.command, saved.kind)


def genotype_of(run: Opened) -> Any:
    """The cell that a run found or trained."""
    folder = run.folder if (run.folder / "genotype.json").exists() else run.root
    return recipes.named(str(folder), "RUN")


def report(run: Opened, section: sections.Section, numbers: Mapping[str, Any]) -> None:
    """Writes an analysis into the run's folder and shows it on the run's page."""
    page = run.folder / "report.html"
    page = page if page.exists() else run.root / "report.html"
    try:
        sections.write(run.folder, section, numbers, runs.versions())
        print(f"numbers {run.folder / 'analysis' / section.name}.json", flush=True)
        if not page.exists():
            return print(
                f"{page}: the run has no report, being unfinished; its report will show the"
                " analysis",
                flush=True,
            )
        extend(page, sections.gather(page.parent))
    except (OSError, ValueError) as error:
        raise Stop(f"{run.folder}: {error}") from error
    print(f"report {page}#{section.name}", flush=True)


def plain(values: Any) -> Any:
    """Numbers for JSON, six digits of each, None for what is not finite."""
    array = np.asarray(values)
    if array.ndim:
        return [plain(value) for value in array]
    return float(f"{array:.6g}") if math.isfinite(array) else None


class Subject(NamedTuple):
    """A loss on given batches as a function of a point.

    what: what the point is: "weights" or "alpha".
    point: a tree of arrays.
    loss: (point, batch) -> (mean loss of the batch, its share of right answers); pure.
    batches: {"image", "label"} with leading axes of batches and examples.
    direction: key -> a direction for the point to move in.
    images: which, in words.
    """

    what: str
    point: Any
    loss: Callable[[Any, Any], tuple[Any, Any]]
    batches: Any
    direction: Callable[[Any], Any]
    images: str

    def mean_loss(self, point: Any) -> tuple[Any, Any]:
        """Loss and accuracy over all batches, one after the other."""
        values = jax.lax.map(lambda batch: self.loss(point, batch), self.batches)
        return jax.tree.map(jnp.mean, values)

    @property
    def words(self) -> str:
        """What moves, within a title."""
        return "the weights" if self.what == "weights" else self.what

    def section(self, analysis: str) -> str:
        """The name of an analysis of it: those of weights and of alpha stand side by side."""
        return analysis if self.what == "weights" else f"{analysis}-alpha"


def subject(run: Opened, config: Measured) -> Subject:
    """The loss that an analysis of a run looks at."""
    runs.use_cache(config)
    if config.of == "alpha" and not run.searched:
        raise Stop(
            f"--of=alpha {run.folder}: the training of a cell has weights only; name a search", 2
        )
    _check_images(run)
    return (_of_search if run.searched else _of_training)(run, config)


def _check_images(run: Opened) -> None:
    """Refuses runs whose images do not lie in memory."""
    if run.kind == "text":
        raise Stop(f"{run.folder}: a run on texts; this analysis takes images only", 2)
    if run.settings.get("stream"):
        raise Stop(
            f"{run.folder}: its images are streamed from a disk; this analysis takes sets in memory"
            " only",
            2,
        )


WORDS = {"train": "training", "valid": "validation", "test": "test"}


def _batches(part: images.Images, name: str, config: OnImages, batch_size: int) -> tuple[Any, str]:
    size = config.batch_size or batch_size
    count = min(config.images, part.num) // size
    if not count:
        raise Stop(
            f"--images={config.images} --batch_size={size}: no full batch among"
            f" {min(config.images, part.num)} images",
            2,
        )
    chosen = part.images[: count * size], part.labels[: count * size]
    stacked = [jnp.asarray(a).reshape(count, size, *a.shape[1:]) for a in chosen]
    return (
        dict(zip(("image", "label"), stacked, strict=True)),
        f"{count * size} {WORDS[name]} images in batches of {size}",
    )


def _of_training(run: Opened, config: Measured) -> Subject:
    if config.part == "valid":
        raise Stop(
            f"--part=valid {run.folder}: the training of a cell has train and test images", 2
        )
    try:
        apply, variables = load(run.folder)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    data_config = recipes.Config(
        dataset=run.settings["dataset"],
        data_dir=config.data_dir or run.settings["data_dir"],
        image_size=run.settings.get("image_size"),
    )
    dataset = image_evaluation.load(data_config)
    part = "train" if config.part == "train" else "test"
    batches, name = _batches(getattr(dataset, part), part, config, run.settings["batch_size"])

    def loss(params, batch):
        return _loss_and_hits(
            apply({**variables, "params": params}, batch["image"]), batch["label"]
        )

    params = variables["params"]
    return Subject(
        "weights", params, loss, batches, lambda key: landscape.direction(params, key), name
    )


def _loss_and_hits(logits, labels) -> tuple[Any, Any]:
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    return loss, jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))


class Restored(NamedTuple):
    """A search's supernet where the search ended.

    algorithm: its --algorithm.
    cells: choices of every cell.
    params, arch: weights and alpha, which may be empty.
    mix: alpha -> the mix.
    loss: (weights, mix, batch) -> (mean loss of the batch, its share of right answers); pure.
    batches, images: as of `Subject`.
    """

    algorithm: str
    cells: Mapping[str, Choices]
    params: Any
    arch: Any
    mix: Callable[[Any], Any]
    loss: Callable[[Any, Any, Any], tuple[Any, Any]]
    batches: Any
    images: str


def restored(run: Opened, config: OnImages) -> Restored:
    """The supernet of a search on images."""
    runs.use_cache(config)
    if not run.searched:
        raise Stop(f"{run.folder}: the training of a cell has no mix; name a search", 2)
    _check_images(run)
    saved = command_line.Saved(str(run.root), run.command, run.kind, run.settings)
    run_config = command_line.resumed(image_search.Config, saved, "RUN")
    run_config = image_search.check(
        dataclasses.replace(
            run_config,
            resume=str(run.root),
            run_dir=str(run.root),
            num_devices=1,
            data_dir=config.data_dir or run_config.data_dir,
        )
    )
    dataset = datasets.load(run_config)
    program = image_search.build(run_config, dataset)
    like = runs.checkpoint_form(program.init)
    state = programs.trained_state(run.root, like, run_config, after="; name another run")
    state = jax.tree.map(lambda x: x[run.seed_index], state)
    parts = {
        name: images.Images(np.asarray(d["image"]), np.asarray(d["label"]))
        for name, d in program.data.items()
    }
    parts = {"train": parts["train"], "valid": parts["val"], "test": dataset.test}
    part = "valid" if config.part == "own" else config.part
    batches, name = _batches(parts[part], part, config, run_config.batch_size)
    shape = dataset.train.images.shape[1:]
    algorithm = methods.make(
        run_config, program.space, program.steps_per_epoch, len(dataset.class_names), shape
    )
    net = image_search.supernet(run_config, program.space, len(dataset.class_names)).clone(
        axis_name=None
    )
    noise = jax.random.key(0)

    def loss(params, mix, batch):
        pixels = data.augment.normalize(batch["image"], dataset.mean, dataset.std)
        return _loss_and_hits(net.apply({"params": params}, pixels, mix, noise), batch["label"])

    return Restored(
        run_config.algorithm,
        program.space.cells,
        state.params,
        state.arch,
        lambda arch: algorithm.relax.derive(arch, last_step(state)),
        loss,
        batches,
        name,
    )


def _of_search(run: Opened, config: Measured) -> Subject:
    search = restored(run, config)
    params, arch = search.params, search.arch
    if config.of == "weights":

        def loss_of_weights(params, batch):
            return search.loss(params, search.mix(arch), batch)

        return Subject(
            "weights",
            params,
            loss_of_weights,
            search.batches,
            lambda key: landscape.direction(params, key),
            search.images,
        )
    if not jax.tree.leaves(arch):
        raise Stop(
            f"{run.folder}: --algorithm={search.algorithm} has no alpha; --of=weights looks at"
            " its weights",
            2,
        )

    def loss_of_arch(arch, batch):
        return search.loss(params, search.mix(arch), batch)

    return Subject(
        "alpha",
        arch,
        loss_of_arch,
        search.batches,
        lambda key: landscape.unit_direction(arch, key),
        search.images,
    )


def space_of(run: Opened) -> dict[str, Choices]:
    """The choices of every cell of a search."""
    try:
        return methods.cells_from_json(files.read_text(run.root / "space.json"))
    except (OSError, ValueError) as error:
        raise Stop(f"{run.folder}: not a search, no usable space.json: {error!r}", 2) from error


def mixes_of(folder: Path, cells: Mapping[str, Choices]) -> dict[str, np.ndarray]:
    """The mixture weights of every epoch, [epochs, edges, ops] of each cell."""
    try:
        saved = files.read_arrays(folder / "alphas.npz")
        return {name: saved[name] for name in cells}
    except (OSError, ValueError, KeyError) as error:
        raise Stop(
            f"{folder}: no usable alphas.npz, which a search has from its first epoch on:"
            f" {error!r}",
            2,
        ) from error


def facts_of(run: Opened) -> dict[str, Any]:
    """Facts that a finished search has about its cell; empty for other runs."""
    try:
        return files.read_json(run.folder / "facts.json", dict)
    except (OSError, ValueError):
        return {}
