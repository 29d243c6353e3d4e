"""The hand-off of trained networks: what is read back, what is refused, and exported files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import files, genotypes, spaces
from jaxdarts.training import export

CELL = genotypes.parse(
    "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
)
SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of random weights, as a finished run leaves it."""
    folder = tmp_path_factory.mktemp("run")
    net = spaces.darts().network(CELL, width=4, depth=3, num_classes=5)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    export.save(
        folder,
        genotype=CELL,
        params=variables["params"],
        averages=variables["batch_stats"],
        width=4,
        depth=3,
        num_classes=5,
        imagenet=False,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        image_shape=SHAPE,
        class_names=list("abcde"),
    )
    return folder


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (2, *SHAPE), np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x / np.float32(255),
        lambda x: x.astype(np.int32),
        lambda x: x[:, :4],
        lambda x: x[..., :1],
        lambda x: x[0],
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x.tolist(),
    ],
)
def test_apply_refuses_images_that_would_give_other_numbers(run, pixels, change):
    apply, params = jd.load(run)
    with pytest.raises(ValueError, match="the network takes uint8 .*8, 8, 3") as error:
        apply(params, change(pixels))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the network takes uint8"):
        jax.jit(apply)(params, jnp.asarray(change(pixels)))


def copy_of(run, folder, facts=None, weights=None):
    arrays = files.read_arrays(run / "weights.npz") if weights is None else weights
    files.replace_arrays(folder / "weights.npz", arrays)
    saved = json.loads((run / "network.json").read_text()) | (facts or {})
    files.replace_text(
        folder / "network.json", json.dumps({k: v for k, v in saved.items() if v != "left out"})
    )
    return folder


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"num_classes": 10, "class_names": "left out"}, "weights.npz has params/head .*5.*10"),
        ({"num_classes": "ten"}, "num_classes|the content"),
        ({"width": 8}, "weights.npz has"),
        ({"depth": 4}, "weights.npz has"),
        ({"genotype": 3}, "network.json"),
        ({"genotype": "Genotype()"}, "'normal' is missing"),
        ({"genotype": "8:16:24:32:64"}, "no trained network"),
        ({"image_shape": [8, 8]}, "network.json"),
        ({"mean": None}, "network.json: mean is None, not a list"),
        ({"imagenet": "left out"}, "network.json: imagenet is missing"),
        ({"image_shape": [0, 8, 3]}, "network.json: image_shape is .0, 8, 3.; sizes are from 1"),
        ({"image_shape": [10**6, 10**6, 3]}, "sizes are from 1 to 65536"),
        ({"depth": 10**6}, "network.json: depth is 1000000, not from 1 to 1000"),
        ({"width": -1}, "network.json: width is -1, not from 1 to 65536"),
        ({"num_classes": 10**9}, "network.json: num_classes is 1000000000, not from 1 to"),
        ({"mean": [0.5]}, "network.json: mean is no list of"),
        ({"std": [0.2, 0.0, 0.2]}, "network.json: std is .0.2, 0.0, 0.2.; deviations are positive"),
        ({"class_names": ["one"]}, "network.json: class_names has 1 entries for 5 classes"),
        ({"shorter_side": -3}, "network.json: shorter_side is -3, not from"),
    ],
)
def test_facts_that_do_not_fit(run, tmp_path, facts, words):
    with pytest.raises(ValueError, match=words) as error:
        jd.load(copy_of(run, tmp_path, facts))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {name: np.full_like(value, np.nan) for name, value in w.items()},
        lambda w: {name: value for name, value in w.items() if name != "params/head"},
        lambda w: {name: value for name, value in w.items() if not name.startswith("params")},
        lambda w: w | {"params/other": np.zeros(3, np.float32)},
        lambda w: w | {"params/head": np.zeros(w["params/head"].shape, np.int32)},
        lambda w: w | {"params/head/deeper": np.zeros(3, np.float32)},
        lambda w: {},
    ],
)
def test_weights_that_do_not_fit(run, tmp_path, change):
    weights = change(files.read_arrays(run / "weights.npz"))
    with pytest.raises(ValueError, match="holds no trained network") as error:
        jd.load(copy_of(run, tmp_path, weights=weights))
    assert "\n" not in str(error.value)


def test_exported_file(run, tmp_path, pixels):
    path = tmp_path / "network.bin"
    jd.export(run, path, platforms=("cpu",))
    assert [p.name for p in tmp_path.iterdir()] == ["network.bin"]
    apply, params = jd.load(run)
    expected = apply(params, pixels)
    np.testing.assert_allclose(jd.read_exported(path)(pixels), expected, rtol=1e-4, atol=1e-5)
    content = path.read_bytes()
    # JAX alone reads it too, and the versions are in it.
    exported = jax.export.deserialize(bytearray(content))
    np.testing.assert_allclose(exported.call(pixels), expected, rtol=1e-4, atol=1e-5)
    assert f'"jax": "{jax.__version__}"'.encode() in content
    # A file of an earlier version has nothing behind the program.
    path.write_bytes(content[: content.rindex(b'{"run"')])
    np.testing.assert_allclose(jd.read_exported(path)(pixels), expected, rtol=1e-4, atol=1e-5)
    half = len(content) // 2
    broken = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    for wrong in (b"", b"hello", content[:100], content[:half], broken, content[half:]):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="no exported network") as error:
            jd.read_exported(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
