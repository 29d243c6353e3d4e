"""Hand-off of a trained network.

It is a folder of two plain files, functions, or one exported program.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int

from jaxdarts import files, genotypes, objectives, spaces
from jaxdarts.data import augment, feed, images, stream, text
from jaxdarts.genotypes import RecurrentGenotype
from jaxdarts.nn.primitives.platforms import every_platform
from jaxdarts.training.text import over_stream


class ImageNetwork(TypedDict):
    """network.json of an image classifier."""

    genotype: str
    width: int | None
    depth: int | None
    num_classes: int
    imagenet: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]
    class_names: NotRequired[tuple[str, ...]]
    shorter_side: NotRequired[int]


class LanguageModel(TypedDict):
    """network.json of a language model."""

    genotype: str
    width: int
    num_words: int


class Trained(NamedTuple):
    """A trained network.

    apply: (params, images) -> logits [batch, classes], from uint8 images [batch, height, width,
    channels] as stored. Of a
        language model: (params, tokens, hidden) -> (logits, hidden), with tokens [time, batch],
        logits of the next word [time, batch, vocabulary], and hidden states [batch, width]; without
        `hidden` the text begins here.
    params: weights and running averages, a pytree.
    """

    apply: Callable[..., Any]
    params: Any


def save(folder: str | Path, *, genotype, params: Any, averages: Any, **facts: Any) -> None:
    """Writes `network.json` and `weights.npz`.

    Args:
        folder: where to; files of these names are replaced.
        genotype: the network's cells.
        params, averages: its variables `params` and `batch_stats`.
        facts: width and depth (as of the space's `network`), num_classes, imagenet, mean and std
            (of every channel, pixels scaled to [0, 1]), image_shape, class_names, shorter_side
            (of a picture before its central square is cut out; by default the height).
    """
    flat = flatten_dict({"params": params, "batch_stats": averages}, sep="/")
    folder = Path(folder)
    files.replace_arrays(folder / "weights.npz", flat)
    files.replace_text(
        folder / "network.json", json.dumps({"genotype": str(genotype), **facts}, indent=1) + "\n"
    )


def save_language_model(
    folder: str | Path, *, genotype: RecurrentGenotype, params: Any, vocabulary: Sequence[str]
) -> None:
    """Writes `network.json`, `weights.npz` and `vocabulary.json` of a language model.

    The words are in the order of the embedding's rows.
    """
    folder = Path(folder)
    files.replace_arrays(folder / "weights.npz", params)
    files.replace_text(
        folder / "vocabulary.json", json.dumps(list(vocabulary), ensure_ascii=False) + "\n"
    )
    facts = {
        "genotype": str(genotype),
        "width": params["embedding"].shape[1],
        "num_words": len(vocabulary),
    }
    files.replace_text(folder / "network.json", json.dumps(facts, indent=1) + "\n")


def load(run: str | Path) -> Trained:
    """A trained cell's network as plain functions.

        apply, params = jaxdarts.load("runs/eval-cifar10-...")
        logits = jax.jit(apply)(params, images)

        apply, params = jaxdarts.load("runs/eval-ptb-...")
        logits, hidden = jax.jit(apply)(params, tokens)  # places in trained.vocabulary(run)

    Args:
        run: a run folder of `jaxdarts evaluate` (of one seed, where it trained several).

    Raises:
        ValueError: if the folder holds no trained network, or not all of it. `apply` raises it for
          images that are not uint8 [batch, height, width, channels] of the size that the network
          was trained on.
    """
    return _functions(*_read(Path(run)))


def _functions(facts: Mapping[str, Any], net: Any, params: Any) -> Trained:
    def classify(params, images):
        check_images(images, facts["image_shape"])
        mean, std = (np.asarray(facts[name], np.float32) for name in ("mean", "std"))
        pixels = augment.normalize(jnp.asarray(images), mean, std)
        logits, _ = net.apply(
            params, pixels, key=jax.random.key(0)
        )  # for noise (S4): one key, so that this is a function
        return logits

    def predict(params, tokens, hidden=None):
        _check_tokens(tokens, hidden, facts["width"])
        start = net.start(tokens.shape[1]) if hidden is None else jnp.asarray(hidden)
        out = net.apply({"params": params}, jnp.asarray(tokens), start)
        return out.logits, out.hidden

    return Trained(predict if "num_words" in facts else classify, params)


def check_images(images: Any, shape: Sequence[int]) -> None:
    """Refuses what would give other numbers without an error, such as pixels scaled to [0, 1]."""
    dtype, given = getattr(images, "dtype", None), np.shape(images)
    if dtype != np.uint8 or given[1:] != tuple(shape) or len(given) != 4:
        raise ValueError(
            f"images are {dtype} [{', '.join(map(str, given))}]; the network takes uint8 (0 to"
            f" 255) [batch, {', '.join(map(str, shape))}], as they are stored"
        )


def _check_tokens(tokens: Any, hidden: Any, width: int) -> None:
    dtype, given = getattr(tokens, "dtype", None), np.shape(tokens)
    if dtype is None or not np.issubdtype(dtype, np.integer) or len(given) != 2:
        raise ValueError(
            f"tokens are {dtype} [{', '.join(map(str, given))}]; the network takes integers [time,"
            " batch]"
        )
    if hidden is not None and np.shape(hidden) != (given[1], width):
        raise ValueError(
            f"the hidden state is {list(np.shape(hidden))}; for these tokens it is"
            f" [{given[1]}, {width}]"
        )


def _read(folder: Path) -> tuple[Mapping[str, Any], Any, Any]:
    try:
        facts = files.read_json(folder / "network.json", ImageNetwork | LanguageModel)
        _check_facts(facts, f"{folder / 'network.json'}")
        weights = files.read_arrays(folder / "weights.npz")
        params = unflatten_dict(
            {name: jnp.asarray(value) for name, value in weights.items()}, sep="/"
        )
        genotype = genotypes.parse(facts["genotype"])
        network = spaces.of(genotype).network
        if isinstance(genotype, RecurrentGenotype) != ("num_words" in facts):
            raise ValueError(f"network.json describes no network of a {type(genotype).__name__}")
        if "num_words" in facts:
            net: Any = network(genotype, facts["width"], facts["num_words"])
            _check_weights(net.init, {"params": params}, *net.example_inputs(()))
            return facts, net, params
        options = {"imagenet": True} if facts["imagenet"] else {}  # not every space has that stem
        net = network(genotype, facts["width"], facts["depth"], facts["num_classes"], **options)
        for name in ("params", "batch_stats"):
            params[name].pop("auxiliary_head", None)
        _check_weights(net.init, params, *net.example_inputs(facts["image_shape"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"no {error} in weights.npz" if isinstance(error, KeyError) else error
        if isinstance(error, FileNotFoundError):
            reason = f"no file {Path(error.filename).name}{_way_out(folder)}"
        raise ValueError(f"{folder} holds no trained network: {reason}") from error
    return facts, net, params


_MOST = {"width": 1 << 16, "depth": 1000, "num_classes": 1 << 24, "num_words": 1 << 24}
"""The largest sizes of a network that is read."""


def _check_facts(facts: Mapping[str, Any], where: str) -> None:
    """Refuses facts that describe no network, or one that nothing could hold."""
    for name, most in _MOST.items():
        value = facts.get(name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"{where}: {name} is {value}, not from 1 to {most}")
    if "num_words" in facts:
        return
    shape = height, width, channels = tuple(facts["image_shape"])
    if min(shape) < 1 or max(shape) > 1 << 16:
        raise ValueError(f"{where}: image_shape is {list(shape)}; sizes are from 1 to {1 << 16}")
    for name in ("mean", "std"):
        values = np.asarray(facts[name], np.float64)
        if len(values) != channels or not np.isfinite(values).all():
            raise ValueError(f"{where}: {name} is no list of {channels} numbers, one a channel")
    if min(facts["std"]) <= 0:
        raise ValueError(f"{where}: std is {list(facts['std'])}; deviations are positive")
    names, classes = facts.get("class_names"), facts["num_classes"]
    if names is not None and len(names) != classes:
        raise ValueError(f"{where}: class_names has {len(names)} entries for {classes} classes")
    side = facts.get("shorter_side")
    if side is not None and not max(height, width) <= side <= 1 << 16:
        raise ValueError(f"{where}: shorter_side is {side}, not from {max(height, width)} on")


def _way_out(folder: Path) -> str:
    """What to do about a folder that lacks a file of a trained network."""
    if not folder.is_dir():
        return "; there is no such folder"
    seeds = sorted(folder.glob("seed-*/network.json"))
    if seeds:
        return f"; it has several seeds: name one, such as {seeds[0].parent}"
    return "; name the folder of a finished run of jaxdarts evaluate, which trains a cell"


def _check_weights(init: Callable[..., Any], variables: Any, *inputs: Any) -> None:
    """Refuses weights that are not those of the network, or not all of them numbers."""
    expected: Any = flatten_dict(dict(jax.eval_shape(init, jax.random.key(0), *inputs)), sep="/")
    given: Any = flatten_dict(variables, sep="/")
    for name in sorted({*expected, *given}):
        shapes = [dict_[name].shape if name in dict_ else "none" for dict_ in (given, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"weights.npz has {name} {shapes[0]}, the network of network.json {shapes[1]}"
            )
        if not jnp.issubdtype(given[name].dtype, jnp.floating):
            raise ValueError(f"weights.npz has {name} as {given[name].dtype}, not floats")
        if not bool(jnp.isfinite(given[name]).all()):
            raise ValueError(f"weights.npz has values in {name} that are NaN or infinite")


def accuracy(
    logits: Callable[[np.ndarray], Array],
    dataset: images.Dataset | stream.Dataset,
    batch_size: int = 128,
) -> float:
    """Share of the test images of a set whose largest logit is that of their label.

    The set is in memory or on a disk.

    Args:
        logits: uint8 images [batch_size, height, width, channels] -> logits [batch_size, classes].
        dataset: from `data.images.load` or `data.stream.load`.
        batch_size: images in a batch; the last one is filled up.
    """
    indices, weights = feed.filled_up(dataset.test.num, batch_size)
    hits = 0
    with stream.threads() as pool:
        read = feed.host(pool, dataset, indices)
        for i in range(len(indices)):
            batch = read(i)
            hits += int(
                np.sum(
                    weights[i]
                    * (np.argmax(np.asarray(logits(batch["image"])), -1) == batch["label"])
                )
            )
    return hits / dataset.test.num


def perplexity(run: str | Path, tokens: Int[np.ndarray, " words"], batch_size: int = 1) -> float:
    """Perplexity of a language model on a text, per predicted word.

    Args:
        run: as of `load`.
        tokens: the text as places in `vocabulary(run)`.
        batch_size: columns that the text is cut into, which start from nothing each: fewer are more
          exact, more are faster.

    Raises:
        ValueError: as `load`; if the run holds an image classifier; if the text is too short for
          the columns.
    """
    folder = Path(run)
    vocabulary(folder)
    _, net, params = _read(folder)
    loss = over_stream(objectives.language_model(net), 35)  # windows of any length give the same
    return float(
        jnp.exp(
            loss(params, {}, net.start(batch_size), jnp.asarray(text.streams(tokens, batch_size)))
        )
    )


def vocabulary(run: str | Path) -> tuple[str, ...]:
    """The words that a language model knows, in the order of its logits; errors as in `load`."""
    folder = Path(run)
    if "num_words" not in _read(folder)[0]:
        raise ValueError(f"{folder} holds an image classifier, no language model")
    try:
        return files.read_json(folder / "vocabulary.json", tuple[str, ...])
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no vocabulary: {error}") from error


def image_shape(run: str | Path) -> tuple[int, int, int]:
    """Height, width, channels of the images a network was trained on; errors as in `load`."""
    facts, _, _ = _read(Path(run))
    if "num_words" in facts:
        raise ValueError(f"{run} holds a language model, no image classifier")
    height, width, channels = facts["image_shape"]
    return height, width, channels


def num_classes(run: str | Path) -> int:
    """Number of classes of an image classifier; errors as in `load`."""
    image_shape(run)
    return _read(Path(run))[0]["num_classes"]


def facts_of(run: str | Path) -> Mapping[str, Any]:
    """Facts of a trained network, as its network.json has them; errors as in `load`."""
    return _read(Path(run))[0]


def _inputs(facts: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs of a network by name, with symbolic sizes of a batch and a text."""
    if "num_words" not in facts:
        batch = jax.export.symbolic_shape("batch")
        return {"images": jax.ShapeDtypeStruct((*batch, *facts["image_shape"]), jnp.uint8)}
    time, batch = jax.export.symbolic_shape("time, batch")
    hidden = jax.ShapeDtypeStruct((batch, facts["width"]), jnp.float32)
    return {"tokens": jax.ShapeDtypeStruct((time, batch), jnp.int32), "hidden": hidden}


def export_onnx(run: str | Path, path: str | Path) -> None:
    """Writes a trained network as an ONNX file, with normalisation and names of classes inside.

    Inputs and outputs are those of `load`'s function, and any batch size will do. Images: `images`,
    uint8 -> `logits`. A language model: `tokens`, int32, and `hidden` -> `logits` and
    `next_hidden`. The names of classes, or the words, are JSON texts in the file's metadata:
    `class_names`, `vocabulary`.

    Raises:
        ValueError: as `load`; if the network draws at random, as cells with noise do.
        ModuleNotFoundError: if the package `onnx` is missing; tells the pip command.
    """
    from jaxdarts.training import to_onnx  # here: few programs want it

    facts, net, params = _read(Path(run))
    apply, params = _functions(facts, net, params)
    texts = {"jax": jax.__version__, "genotype": facts["genotype"]}
    if "num_words" in facts:
        outputs = ("logits", "next_hidden")
        texts["vocabulary"] = json.dumps(vocabulary(run), ensure_ascii=False)
    else:
        outputs = ("logits",)
        texts["class_names"] = json.dumps(facts.get("class_names", ()), ensure_ascii=False)

    def function(*inputs: Array) -> tuple[Array, ...]:
        results = apply(params, *inputs)
        return tuple(results) if len(outputs) > 1 else (results,)

    model = to_onnx.convert(function, _inputs(facts), outputs, texts)
    files.replace_bytes(path, model.SerializeToString())


def export(
    run: str | Path, path: str | Path, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
) -> None:
    """Writes a trained network, weights and all, as one file that needs nothing but JAX to run.

    Any batch size will do later on, and any length of a text: they stay symbolic. JAX promises to
    read such a file for six months only; the run folder is the lasting form, of which the file can
    be made again. The file also names the versions that wrote it.
    """
    facts, net, params = _read(Path(run))
    apply, params = _functions(facts, net, params)
    function = jax.jit(lambda *inputs: apply(params, *inputs))
    with every_platform():
        exported = jax.export.export(function, platforms=platforms)(*_inputs(facts).values())
    content = bytes(exported.serialize())
    about = {
        "run": Path(run).resolve().name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
    }
    # Behind the program, where `jax.export.deserialize` does not look.
    text = json.dumps(about).encode()
    files.replace_bytes(path, content + text + struct.pack("<I", len(text)) + _MAGIC)


def read_exported(path: str | Path) -> Callable[..., Any]:
    """Reads the function of an exported file.

    It maps uint8 images [batch, height, width, channels] to logits [batch, classes].

    Of a language model: (int32 tokens [time, batch], float32 hidden state [batch, width], zero at
    first) -> (logits, hidden).

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no exported network, or one of a version of JAX that this one does
          not read: JAX reads those of the last six months.
    """
    content, written = files.read_bytes(path, 1 << 34), ""
    try:
        if content.endswith(_MAGIC):
            content, about = _split(content, str(path))
            written = f", written by JAX {about['versions'].get('jax')}"
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                raise ValueError("the file is damaged: it does not have its checksum")
            return jax.export.deserialize(bytearray(content)).call
        exported = jax.export.deserialize(bytearray(content))
        exported.mlir_module()  # raises where the program is cut off
        return exported.call
    except Exception as error:  # flatbuffers and MLIR raise anything on broken data
        raise ValueError(
            f"{path} holds no exported network that JAX {jax.__version__} reads{written}; export"
            f" the run folder again: {' '.join(str(error).split())[:200]}"
        ) from error


_MAGIC = b"jaxdarts export\n"


class _About(TypedDict):
    sha256: str
    versions: dict[str, str]


def _split(content: bytes, where: str) -> tuple[bytes, Any]:
    """The program of an exported file, and what stands behind it."""
    end = len(content) - len(_MAGIC) - 4
    (length,) = struct.unpack_from("<I", content, max(end, 0))
    text = content[max(end - length, 0) : end].decode()
    return content[: end - length], files.fitting(files.parse_json(text, where), _About, where)
