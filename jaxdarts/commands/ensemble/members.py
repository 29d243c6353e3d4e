"""Where the members of an ensemble come from, and what each says: logits of every image, kept in a
folder of its own.

Cells are trained from scratch, runs of `jaxdarts evaluate` are loaded as they are, checkpoints of
one supernet are child cells with shared weights, and growing ensembles train cells and dense
networks of the depth they are asked for.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import files, parallel, runs
from jaxdarts.commands import command_line, methods
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.evaluate import recipes
from jaxdarts.commands.search import history as search_history
from jaxdarts.commands.search import images as image_search
from jaxdarts.count import count_params
from jaxdarts.data import augment, images
from jaxdarts.nn.dense import Dense
from jaxdarts.runs import Stop
from jaxdarts.space import one_hot
from jaxdarts.training.export import ImageNetwork, load
from jaxdarts.training.images import from_scratch

SUPERNET = "supernet:"
GROW = "grow:"


class Source(NamedTuple):
    """One member before it says anything.

    name: as on the command line, with the seed where a folder has several.
    genotype: the cell to train; None where there is a trained network.
    run: the folder of that network.
    """

    name: str
    genotype: Any
    run: Path | None = None


class MemberOutputs(NamedTuple):
    """What a member says, in every seed.

    name: of the member.
    depth: cells or hidden layers, where the ensemble grows.
    parameters: weights of one network; 0 where weights are shared.
    held, test: logits [seeds, images, classes] of the held-out and the test images.
    fit: of the images that it was trained on, where the ensemble grows.
    """

    name: str
    depth: int
    parameters: int
    held: np.ndarray
    test: np.ndarray
    fit: np.ndarray | None = None


class Parts(NamedTuple):
    """The images: members are trained on `fit`, the ensemble is pruned on `held`; the dataset's own
    test images judge.
    """

    dataset: images.Dataset
    fit: images.Images
    held: images.Images


def sources(part: str) -> list[Source]:
    """The members that one name on the command line stands for: a folder of several seeds has
    several.
    """
    folder, flag = Path(part), "--ensemble"
    for name, file in (("network", "network.json"), ("cell", "genotype.json")):
        seeds = sorted(
            folder.glob(f"seed-*/{file}"),
            key=lambda path: int(path.parent.name.removeprefix("seed-")),
        )
        run_folders = [path.parent for path in seeds] or [folder] * (folder / file).is_file()
        if run_folders and name == "network":
            return [Source(str(run), None, run) for run in run_folders]
        if run_folders:
            return [Source(str(run), recipes.resolve(str(run), flag)) for run in run_folders]
    return [Source(part, recipes.resolve(part, flag))]


def remembered(folder: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of logits.npz in a folder; they are made, and written as a whole, where it is not
    there.
    """
    path = folder / "logits.npz"
    if not path.exists():
        arrays = make()
        folder.mkdir(parents=True, exist_ok=True)
        files.replace_arrays(path, arrays)
    try:
        return files.read_arrays(path)
    except (OSError, ValueError) as error:
        raise Stop(f"{error}; remove it to have it made again") from error


def on_all_images(
    function: Callable[[np.ndarray], Any], pixels: np.ndarray, batch_size: int
) -> np.ndarray:
    """A function of batches on all images, [..., images, classes]; the last batch is filled up with
    the first images.
    """
    size = min(batch_size, len(pixels))
    batches = np.arange(-(-len(pixels) // size) * size).reshape(-1, size) % len(pixels)
    return np.concatenate([np.asarray(function(pixels[batch])) for batch in batches], axis=-2)[
        ..., : len(pixels), :
    ]


# ----------------------------------------------------------------------------------------- networks


def member_config(config: Any, genotype: Any, seed: int, folder: Path) -> recipes.Config:
    """The settings of `jaxdarts evaluate` for one member."""
    settings: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(recipes.Training)
    }
    resume = str(folder) if (folder / "config.json").exists() else None
    settings |= {"arch": str(genotype), "seed": seed, "run_dir": str(folder), "resume": resume}
    return recipes.Config(**settings)


def cell(
    config: Any,
    name: str,
    genotype: recipes.Cells,
    seed: int,
    folder: Path,
    parts: Parts,
    grows: bool = False,
) -> MemberOutputs:
    """A cell that is trained from scratch, with all seeds in one program, or goes on where it was
    left.
    """
    run_config = member_config(config, genotype, seed, folder)
    if not (folder / "valid.json").exists():
        dataset = parts.dataset._replace(train=parts.fit, test=parts.held)
        program = image_evaluation.build(run_config, genotype, dataset)
        with runs.open_run(run_config, "eval", runs.again(folder.parent)) as opened:
            opened.log.info("member %s", name)
            image_evaluation.train(run_config, genotype, dataset, program, opened, "valid")
    seeds = (
        [folder / f"seed-{seed + i}" for i in range(config.num_seeds)]
        if config.num_seeds > 1
        else [folder]
    )
    return network(config, name, seeds, folder, parts, grows)


def network(
    config: Any, name: str, trained: list[Path], folder: Path, parts: Parts, grows: bool = False
) -> MemberOutputs:
    """Trained networks of one cell, a seed each."""
    try:
        facts = files.read_json(trained[0] / "network.json", ImageNetwork)
        shape, classes = tuple(facts["image_shape"]), facts["num_classes"]
        if (shape, classes) != (parts.dataset.image_shape, len(parts.dataset.class_names)):
            raise ValueError(
                f"a network for {classes} classes of images {shape}, which {parts.dataset.name}"
                " has not"
            )
        networks = [load(run) for run in trained]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Stop(f"--ensemble={name}: {error}", 2) from error
    apply = runs.jitted(networks[0].apply)  # seeds differ in their weights only

    def logits():
        shown = {
            "held": parts.held,
            "test": parts.dataset.test,
            **({"fit": parts.fit} if grows else {}),
        }
        return {
            key: np.stack(
                [
                    on_all_images(
                        lambda x, one=one: apply(one.params, x), part.images, config.batch_size
                    )
                    for one in networks
                ]
            )
            for key, part in shown.items()
        }

    parameters = sum(leaf.size for leaf in jax.tree.leaves(networks[0].params["params"]))
    return MemberOutputs(name, facts["depth"], parameters, **remembered(folder, logits))


def dense(config: Any, depth: int, seed: int, folder: Path, parts: Parts) -> MemberOutputs:
    """A dense network, trained by RMSProp on images as they are, with all seeds in one program."""
    dataset, num = parts.dataset, parts.fit.num
    net = Dense(config.hidden, depth, len(dataset.class_names))
    training = from_scratch(net, optax.rmsprop(config.dense_learning_rate))
    read = augment.reader(dataset.mean, dataset.std)
    data = {"image": parts.fit.images, "label": parts.fit.labels}
    size = min(config.batch_size, num)

    def order(key):
        epochs = range(-(-config.dense_steps * size // (num // size * size)))
        orders = [augment.order(key, epoch, num)[: num // size * size] for epoch in epochs]
        return np.concatenate(orders)[: config.dense_steps * size].reshape(-1, size)

    def train(key, batches, data):
        params_key, key = jax.random.split(key)
        state = training.init(key, net.init(params_key, *net.example_inputs(dataset.image_shape)))
        return jax.lax.scan(
            lambda state, batch: training.step(state, read(data, batch)), state, batches
        )[0].params

    def says(params, pixels):
        return net.apply({"params": params}, augment.normalize(pixels, dataset.mean, dataset.std))[
            0
        ]

    def logits():
        keys = jnp.stack([jax.random.key(one) for one in range(seed, seed + config.num_seeds)])
        batches = np.stack([order(jax.random.fold_in(key, 1)) for key in keys])
        params = runs.jitted(jax.vmap(train, (0, 0, None)))(keys, batches, data)
        runs.finite(
            config.dense_steps,
            "--dense_learning_rate",
            **{"a weight": jax.flatten_util.ravel_pytree(params)[0]},
        )
        answer = runs.jitted(jax.vmap(says, (0, None)))
        shown = {"held": parts.held, "test": dataset.test, "fit": parts.fit}
        return {
            key: on_all_images(
                lambda pixels: answer(params, pixels), part.images, config.batch_size
            )
            for key, part in shown.items()
        }

    parameters = count_params(net, dataset.image_shape)
    return MemberOutputs(f"dense-{depth}", depth, parameters, **remembered(folder, logits))


# ---------------------------------------------------------------------------------------- supernets


def supernet(config: Any, part: str, folder: Path, parts: Parts) -> list[MemberOutputs]:
    """The cells that a search would have derived after each epoch whose checkpoint is there, with
    the weights of that time.

    The seeds are those of the search. Supernets normalise by the moments of a batch, so there is
    nothing to calibrate, and what is said of an image depends a little on the others of its batch.
    """
    run = Path(part.removeprefix(SUPERNET))
    if not (run / "checkpoints").is_dir():
        raise Stop(f"--ensemble={part}: not the folder of a search", 2)
    settings = command_line.saved(str(run), "--ensemble")
    searched = command_line.resumed(image_search.Config, settings, "--ensemble")
    searched = dataclasses.replace(searched, run_dir=str(run))  # its space is written down there
    if searched.dataset != config.dataset:
        raise Stop(
            f"--ensemble={part}: a search on {searched.dataset}, not on --dataset={config.dataset}",
            2,
        )
    if searched.num_seeds != config.num_seeds:
        raise Stop(
            f"--ensemble={part}: a search with {searched.num_seeds} seeds; use"
            f" --num_seeds={searched.num_seeds}",
            2,
        )
    space, dataset = methods.space_of(searched), parts.dataset
    net = image_search.supernet(searched, space, len(dataset.class_names), remat=False).clone(
        axis_name=None
    )

    def says(params, mix, pixels):
        shown = augment.normalize(pixels, dataset.mean, dataset.std)
        return net.apply(
            {"params": params}, shown, mix, jax.random.key(0)
        )  # the key for noise (S4)

    @functools.cache  # not made where everything has been said
    def like():
        return runs.checkpoint_form(image_search.build(searched, dataset).init)

    answer, outputs = runs.jitted(jax.vmap(says, (0, 0, None))), []
    mixes: Any = [epoch_mixes(one) for one in search_history.folders(searched, run)]
    with runs.checkpoint.open_folder(run / "checkpoints", keep=None) as manager:
        for step in sorted(set(manager.all_steps()).intersection(*mixes)):
            cells = [
                one_hot(space.cells, space.discretize(seed_mixes[step])) for seed_mixes in mixes
            ]

            def logits(step=step, cells=cells):
                params = runs.checkpoint.restore(manager, like(), None, step)["state"].params
                shown, mix = {"held": parts.held, "test": dataset.test}, parallel.stack(cells)
                size = searched.batch_size
                return {
                    key: on_all_images(
                        lambda pixels: answer(params, mix, pixels), part.images, size
                    )
                    for key, part in shown.items()
                }

            try:
                kept = remembered(folder / f"step-{step}", logits)
            except runs.checkpoint.Unusable as error:
                runs.checkpoint.say(f"--ensemble={part}: without step {step}: {error}")
                continue
            outputs.append(MemberOutputs(f"{part}, step {step}", searched.layers, 0, **kept))
    if not outputs:
        raise Stop(
            f"--ensemble={part}: no checkpoint of a whole epoch; search with --keep_checkpoints=0",
            2,
        )
    return outputs


def epoch_mixes(run: Path) -> dict[int, dict[str, np.ndarray]]:
    """The mix after every epoch, by step."""
    try:
        arrays = files.read_arrays(run / "alphas.npz")
        steps = arrays.pop("step")
    except (OSError, ValueError, KeyError) as error:
        raise Stop(f"--ensemble={run}: {error}", 2) from error
    return {
        int(step): {name: values[i] for name, values in arrays.items()}
        for i, step in enumerate(steps)
    }
