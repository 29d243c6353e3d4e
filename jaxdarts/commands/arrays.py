"""The programs' tasks as functions over arrays: search a cell, train it, apply the network.

    found = jd.search(images, labels, epochs=10)
    model = jd.train(found, images, labels)
    logits = model(images)

Keyword arguments are the flags of `jaxdarts search` and `jaxdarts evaluate`, with the same names,
meanings and defaults, but for two: `cache_dir` and, without a folder, `tracker` are off unless
given. Nothing of the process is changed: no signal handler, no environment variable, no setting of
JAX (but its compilation cache, where `cache_dir` is given), no seed. Ctrl-C raises
KeyboardInterrupt, and a thread may call both functions.
"""

import contextlib
import dataclasses
import difflib
import functools
import html
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdarts import files, genotypes, runs
from jaxdarts.commands import command_line, methods, reproduce
from jaxdarts.commands.evaluate import images as image_training
from jaxdarts.commands.evaluate import recipes
from jaxdarts.commands.search import history as search_history
from jaxdarts.commands.search import images as image_search
from jaxdarts.commands.search import summary
from jaxdarts.data import images as image_sets
from jaxdarts.runs import Stop, writers
from jaxdarts.training import export

OF_A_PROGRAM = frozenset(
    """dataset data_dir image_size stream estimate device coordinator num_hosts host resume fork
    fork_epoch adapt_weight_decay stage arch select select_epochs select_portion random_cells
    test_only checkpoint""".split()
)
"""Flags that are an argument of another form here, or have a meaning in a program alone."""
FRONTEND = runs.Frontend(
    messages=False, signals=False, progress=functools.partial(writers.console, alone=True)
)
BATCH = 128
"""Images that a model takes at a time, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A cell that a search has found.

    Attributes:
        genotype: the cell.
        validation_accuracy: of the cell with the supernet's weights, on the half of the images that
            trained alpha; a fraction. Only training from scratch tells how good the cell is.
        summary: the result in a sentence.
        history: the metrics of every epoch.
        report: an HTML page.
        run_dir: the run folder; None where none was asked for.
    """

    genotype: Any
    validation_accuracy: float
    summary: str
    history: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)
    report: str = dataclasses.field(repr=False)
    run_dir: Path | None

    def __str__(self) -> str:
        return f"{self.summary}\n{self.genotype}"

    def _repr_html_(self) -> str:
        return _frame(self.report)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained network, as a function of images.

    Attributes:
        genotype: its cell.
        accuracy: on the test images, a fraction.
        class_names: name of each class, in the order of the logits.
        history: the metrics of every epoch.
        report: an HTML page.
        run_dir: the run folder; None where none was asked for.
        trained: function and weights, as `jd.load` returns them.
        facts: of the network, as network.json has them.
    """

    genotype: Any
    accuracy: float
    class_names: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)
    report: str = dataclasses.field(repr=False)
    run_dir: Path | None
    trained: export.Trained = dataclasses.field(repr=False)
    facts: Mapping[str, Any] = dataclasses.field(repr=False)

    def __call__(self, images: Any) -> np.ndarray:
        """Logits float32 [N, classes] of uint8 images [N, height, width, channels], as stored.

        Grey images may come without their axis of channels. Batches are filled up to a few sizes,
        so that other numbers of images compile nothing anew.

        Raises:
            ValueError: if the images are no such ones.
        """
        images = np.asarray(images)
        if images.ndim == 3 and self.facts["image_shape"][2] == 1:
            images = images[..., None]
        export.check_images(images, self.facts["image_shape"])
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        size = min(BATCH, 1 << (len(images) - 1).bit_length())
        filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])
        batches = np.split(filled, len(filled) // size)
        logits = [np.asarray(self._apply(self.trained.params, batch)) for batch in batches]
        return np.concatenate(logits)[: len(images)]

    @functools.cached_property
    def _apply(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return runs.jitted(self.trained.apply)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes network.json and weights.npz, which `jd.load`, `jd.export`, `jaxdarts export` and
        `jaxdarts predict` read.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        facts = {name: value for name, value in self.facts.items() if name != "genotype"}
        params, averages = (self.trained.params[name] for name in ("params", "batch_stats"))
        export.save(Path(folder), genotype=self.genotype, params=params, averages=averages, **facts)

    def __str__(self) -> str:
        return f"test accuracy {self.accuracy:.2%}\n{self.genotype}"

    def _repr_html_(self) -> str:
        return _frame(self.report)


def search(
    images: Any,
    labels: Any,
    *,
    test_images: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    run_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> Found:
    """Searches a convolutional cell on images in memory, as `jaxdarts search` does.

        found = jd.search(images, labels, preset="digits", algorithm="pc_darts", epochs=10)

    Args:
        images: uint8 [N, height, width, channels], or [N, height, width] of grey ones.
        labels: integers [N] from 0.
        test_images, test_labels: kept out of the search; without them a fifth of the images is, the
            same one that `train` tests on.
        class_names: one name for each label; by default the labels themselves.
        run_dir: folder of the run, as the program writes it; where it has a run already, that one
            goes on. None to leave no files.
        settings: flags of `jaxdarts search`; the defaults are those of the paper's CIFAR-10
            setting, or of another `preset`.

    Raises:
        TypeError: for a keyword that is no flag.
        ValueError: for whatever else ends the program with a line.
    """
    with _folder(run_dir) as folder:
        dataset = image_sets.of_arrays(images, labels, test_images, test_labels, class_names)
        line = _line("search", image_search.Config, settings, dataset.name, folder, run_dir)
        config = image_search.check(image_search.parse(line))
        config = dataclasses.replace(config, run_dir=str(folder))
        runs.use_cache(config)
        image_search.start(config, dataset, frontend=FRONTEND)
        return _found(config, folder, run_dir)


def train(
    found: Any,
    images: Any,
    labels: Any,
    *,
    test_images: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    run_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> Model:
    """Trains a cell from scratch on images in memory, as `jaxdarts evaluate` does.

        model = jd.train(found, images, labels, preset="digits", epochs=20)

    Args:
        found: what `search` has found, a genotype, or the name of a published one.
        images, labels: as of `search`.
        test_images, test_labels: looked at once, after the last epoch; without them a fifth of the
            images is held out of the training for this.
        class_names, run_dir: as of `search`.
        settings: flags of `jaxdarts evaluate`.

    Raises:
        TypeError, ValueError: as `search`.
    """
    with _folder(run_dir) as folder:
        cell = found.genotype if isinstance(found, Found) else found
        genotype = recipes.resolve(str(cell), "found")
        dataset = image_sets.of_arrays(images, labels, test_images, test_labels, class_names)
        words = [f"--arch={genotype}"]
        line = _line("train", recipes.Config, settings, dataset.name, folder, run_dir, words)
        config = image_training.check(image_training.parse(line, None))
        if config.num_seeds > 1:
            raise Stop(f"--num_seeds={config.num_seeds}: one model is trained; call it for each", 2)
        config = dataclasses.replace(config, run_dir=str(folder))
        runs.use_cache(config)
        image_training.start(config, dataset, FRONTEND)
        return _model(folder, run_dir)


def _line(
    function: str,
    kind: type,
    settings: Mapping[str, Any],
    dataset: str,
    folder: Path,
    run_dir: Any,
    others: Sequence[str] = (),
) -> command_line.Line:
    """The command line that keyword arguments stand for.

    Args:
        function: whose arguments they are.
        kind: configurations of its program.
        settings: keyword arguments.
        dataset: name of the data set.
        folder: of the run; one that has a run already is resumed.
        run_dir: what was asked for; None for a folder that does not last.
        others: more words of the line.
    """
    declared, defaults = runs.declared(kind), {one.name: one.default for one in _fields(kind)}
    known = sorted(declared.keys() - OF_A_PROGRAM)
    off = {"cache_dir": ""} | ({"tracker": "none"} if run_dir is None else {})
    words = [f"--dataset={dataset}", *others]
    for name, value in (off | dict(settings)).items():
        if name in declared and name not in known:
            raise TypeError(f"{function}() has no argument {name!r}, a flag of the program alone")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            way = f": do you mean {close[0]!r}?" if close else ", and the program no such flag"
            raise TypeError(f"{function}() has no argument {name!r}{way}")
        if value is None and defaults[name] is not None:
            raise ValueError(f"{name}=None: must have a value, or leave the argument out")
        words += reproduce.words(name, _plain(value))
    if (folder / "config.json").exists():
        saved = command_line.saved(str(folder), "--run_dir")
        if (saved.command, saved.kind) != runs.origin_of(kind):
            raise Stop(f"--run_dir={folder}: a run of jaxdarts {saved.command}; name another", 2)
        if saved.settings.get("dataset") != dataset:
            raise Stop(f"--run_dir={folder}: a run with other images or labels; name another", 2)
        words.append(f"--resume={folder}")
    return command_line.look(words)


def _fields(kind: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind)


def _plain(value: Any) -> Any:
    """A value without NumPy's and JAX's types."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value


@contextlib.contextmanager
def _folder(run_dir: str | os.PathLike | None) -> Iterator[Path]:
    """The folder to write to, which is removed in the end where none was asked for; the line that
    ends a program becomes a ValueError.
    """
    try:
        if run_dir is None:
            with tempfile.TemporaryDirectory(prefix="jaxdarts-") as temporary:
                yield Path(temporary, "run")
        elif not os.fspath(run_dir):
            raise Stop("--run_dir=: must not be empty; leave it out to write no files", 2)
        else:
            yield Path(run_dir).expanduser()
    except Stop as stop:
        raise ValueError(_in_python(str(stop), lasts=run_dir is not None)) from None


def _in_python(line: str, lasts: bool) -> str:
    """The last line of a program in the words of a call."""
    line = line.removesuffix("; --help lists the flags")
    way = r"continue with --resume="
    line = line.replace(way, "continue with run_dir=") if lasts else re.sub(f"; {way}.*", "", line)
    return re.sub(r"--(?=[a-z])", "", line)


def _found(config: Any, folder: Path, run_dir: Any) -> Found:
    """The result of a search; of several seeds, that with the lowest validation loss."""
    facts = {
        one: files.read_json(one / "facts.json", dict[str, Any])
        for one in search_history.folders(config, folder)
    }
    best = min(facts, key=lambda one: facts[one]["found_cell_supernet_loss"])
    return Found(
        genotype=genotypes.from_json((best / "genotype.json").read_text("utf-8")),
        validation_accuracy=facts[best]["found_cell_supernet_accuracy"],
        summary=summary.sentence(facts[best], methods.space_of(config), config),
        history=_history(best),
        report=(best / "report.html").read_text("utf-8"),
        run_dir=None if run_dir is None else folder,
    )


def _model(folder: Path, run_dir: Any) -> Model:
    """The result of a training."""
    facts = export.facts_of(folder)
    return Model(
        genotype=genotypes.parse(facts["genotype"]),
        accuracy=files.read_json(folder / "test.json", dict[str, Any])["accuracy"][0],
        class_names=tuple(facts["class_names"]),
        history=_history(folder),
        report=(folder / "report.html").read_text("utf-8"),
        run_dir=None if run_dir is None else folder,
        trained=export.load(folder),
        facts=facts,
    )


def _history(folder: Path) -> tuple[Mapping[str, Any], ...]:
    return tuple(files.read_json_lines(folder / "metrics.jsonl", writers.METRICS))


def _frame(report: str) -> str:
    """A page within a page, whose styles stay its own."""
    return (
        f'<iframe srcdoc="{html.escape(report)}" title="report"'
        ' style="width: 100%; height: 40em; border: 0"></iframe>'
    )
