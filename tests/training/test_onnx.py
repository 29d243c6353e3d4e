"""ONNX files of networks. Oracle: the networks under JAX, run by ONNX Runtime beside them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import genotypes, spaces
from jaxdarts.nn.primitives.pooling import max_pool
from jaxdarts.training import export

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

CELL = genotypes.parse(
    "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0),"
    " ('dil_conv_5x5', 2)], normal_concat=[2, 3], reduce=[('max_pool_3x3', 0), ('skip_connect', 1),"
    " ('conv_7x1_1x7', 0), ('dil_conv_3x3', 2)], reduce_concat=[2, 3])"
)
NOISY = genotypes.parse(
    "Genotype(normal=[('noise', 1), ('skip_connect', 0)], normal_concat=[2],"
    " reduce=[('noise', 0), ('skip_connect', 1)], reduce_concat=[2])"
)


def drawn(net, *inputs):
    """Random variables, none of them at a start where it does nothing."""
    random = np.random.RandomState(0)

    def one(path, like):
        name, x = jax.tree_util.keystr(path), random.standard_normal(like.shape)
        if "variance" in name:
            x = np.abs(x) + 0.5
        elif "scale" in name:
            x = 1 + 0.1 * x
        elif len(like.shape) > 1:
            x = x / np.sqrt(max(1, np.prod(like.shape[-4:-1])))
        return jnp.asarray(x, jnp.float32)

    return jax.tree_util.tree_map_with_path(
        one, jax.eval_shape(net.init, jax.random.key(0), *inputs)
    )


def saved(folder, genotype, width, depth, shape=(16, 16, 3), imagenet=False, classes=5):
    options = {"imagenet": True} if imagenet else {}
    net = spaces.of(genotype).network(genotype, width, depth, classes, **options)
    variables = drawn(net, jnp.zeros((1, *shape)))
    export.save(
        folder,
        genotype=genotype,
        params=variables["params"],
        averages=variables["batch_stats"],
        width=width,
        depth=depth,
        num_classes=classes,
        imagenet=imagenet,
        mean=[0.4, 0.5, 0.6, 0.7][: shape[-1]],
        std=[0.2, 0.25, 0.3, 0.35][: shape[-1]],
        image_shape=shape,
        class_names=[f"class {i}" for i in range(classes)],
    )
    return folder


def session(run, path):
    export.export_onnx(run, path)
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("genotype", "width", "depth", "options"),
    [
        (CELL, 4, 4, {}),  # two consecutive normal cells, a loop of them
        (genotypes.DARTS_V2, 4, 3, {"imagenet": True, "shape": (32, 32, 1)}),
        (genotypes.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|"
                         "nor_conv_3x3~2|"), 4, 1, {}),
        (genotypes.parse("8:16:8:8:8"), None, None, {}),
    ],
    ids=["cell", "DARTS_V2", "nasbench201", "nats_size"],
)  # fmt: skip
def test_logits_are_those_of_jax(tmp_path, genotype, width, depth, options):
    run = saved(tmp_path, genotype, width, depth, **options)
    ready = session(run, tmp_path / "network.onnx")
    apply, params = jd.load(run)
    pixels = np.random.RandomState(1).randint(0, 256, (3, *export.image_shape(run)), np.uint8)
    expected = np.asarray(jax.jit(apply)(params, pixels))
    assert np.ptp(expected) > 0.1  # they tell images and classes apart
    for size in (3, 1):
        (logits,) = ready.run(["logits"], {"images": pixels[:size]})
        np.testing.assert_allclose(logits, expected[:size], atol=1e-4)
    facts = ready.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == [f"class {i}" for i in range(5)]


def test_a_language_model(tmp_path):
    genotype = next(
        g for g in genotypes.PUBLISHED.values() if isinstance(g, genotypes.RecurrentGenotype)
    )
    net = spaces.of(genotype).network(genotype, 6, 9)
    params = drawn(net, *net.example_inputs(()))["params"]
    words = [f"word{i}" for i in range(9)]
    export.save_language_model(tmp_path, genotype=genotype, params=params, vocabulary=words)
    ready = session(tmp_path, tmp_path / "network.onnx")
    apply, params = jd.load(tmp_path)
    random = np.random.RandomState(1)
    for time, batch in ((5, 3), (1, 1)):
        tokens = random.randint(0, 9, (time, batch)).astype(np.int32)
        hidden = random.standard_normal((batch, 6)).astype(np.float32)
        expected = apply(params, tokens, hidden)
        results = ready.run(["logits", "next_hidden"], {"tokens": tokens, "hidden": hidden})
        for result, right in zip(results, expected):
            np.testing.assert_allclose(result, right, atol=1e-4)
    assert json.loads(ready.get_modelmeta().custom_metadata_map["vocabulary"]) == words


def test_noise_is_refused(tmp_path):
    run = saved(tmp_path, NOISY, 4, 3)
    with pytest.raises(ValueError, match="draws at random|random_bits.*no translation"):
        export.export_onnx(run, tmp_path / "network.onnx")
    assert not (tmp_path / "network.onnx").exists()


def test_plain_pooling_is_the_primitive():
    from jaxdarts.nn.primitives import plain, pooling

    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 3, 6, 6, 4)), jnp.float32)
    for stride in (1, 2):
        expected = max_pool(x, stride)
        result = plain.FORMS[pooling._choose](x, None, stride=stride, size=(6, 6), transposed=False)
        np.testing.assert_array_equal(result, expected)
    with pytest.raises(NotImplementedError, match="forward"):
        plain.FORMS[pooling._choose](x, None, stride=1, size=(6, 6), transposed=True)
