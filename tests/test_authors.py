"""Numbers that the public code of methods' authors gave, run on inputs that both sides can make.

Each test names the code. It ran in PyTorch, in float64, on the inputs of `wave`; the tests hold
what it printed. A gradient stands as its product with a direction.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import penalty, relax
from jaxdarts.nn.benchmarks.nasbench201 import Stage
from jaxdarts.nn.cell import edges_of

DARTS, NASBENCH201 = jd.spaces.darts(), jd.spaces.nasbench201()
CHOICES = NASBENCH201.cells["cell"]
WIDTH = 6


def wave(*shape, shift=0.0):
    """Numbers between -1 and 1 that look irregular."""
    return np.sin(1.7 * np.arange(np.prod(shape)) + shift).reshape(shape)


def centred(rows):
    return rows - rows.mean(axis=1, keepdims=True)


def kernels(size, channels):
    """The convolutions of all edges, [edges, out, in, size, size]."""
    shape = (len(CHOICES.edges), channels, channels, size, size)
    return wave(*shape, shift=size) / (size * np.sqrt(channels))


IMAGES, TARGET = wave(3, 8, 8, WIDTH, shift=1), wave(3, 8, 8, WIDTH, shift=2)
ALPHA, DIRECTION = wave(*CHOICES.shape, shift=3), wave(*CHOICES.shape, shift=4)
MIX = np.exp(ALPHA) / np.exp(ALPHA).sum(axis=1, keepdims=True)


GDAS = (273.3519951500313, 39.77423161877907)
DRNAS = {
    1: (104.6829967446876, 483.0686267716058),
    2: (-20.100597758356997, 243.71500146537284),
    3: (-139.53413313735777, 23.212501883899193),
}
FAIR_DARTS = (-0.2770646115819111, 0.09429060324434801)
PC_DARTS = (3.155473887982219, -1.294845559012252, 0.06793607805266491)
SNAS = (7.751448695676647, -1.3375039424854842)


def of_a_cell(mix_of, parameters, direction, partial=1):
    """The loss of one cell of NAS-Bench-201, and its slope."""
    params = {}
    for size in (1, 3):
        op, of_edges = f"nor_conv_{size}x{size}", kernels(size, WIDTH // partial)
        rows = np.transpose(of_edges, (0, 3, 4, 2, 1))[list(edges_of(CHOICES, op))]
        params[f"{op}_kernel"] = jnp.asarray(rows[None])
    stage = Stage(CHOICES, 1, jnp.float64, None, False, 1, False, partial)

    def loss(parameters):
        out = stage.apply({"params": params}, jnp.asarray(IMAGES), mix_of(parameters), True)
        return jnp.sum(jnp.sin(out) * TARGET)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(parameters))
    return float(value), float(jnp.sum(gradient * direction))


def test_gdas(x64):
    """D-X-Y/AutoDL-Projects: NAS201SearchCell.forward_gdas, the draw as in search_model_gdas.py.

    Their noise was that of our key.
    """
    drawn = relax.drawn(NASBENCH201.cells, lambda step: 0.7)

    def mix_of(alpha):
        return drawn.apply({"cell": alpha}, jax.random.key(3), jnp.int32(0))["cell"]

    actual = of_a_cell(mix_of, ALPHA, DIRECTION)
    np.testing.assert_allclose(actual, GDAS, rtol=1e-9)


@pytest.mark.parametrize("partial", [1, 2, 3])
def test_cells_of_drnas(partial, x64):
    """xiangning-chen/DrNAS: 201-space/search_cells.py at a mix, with all channels and some.

    Channels that go around an edge have the weight one there and the edge's own here. So the
    gradients differ by a constant in each row, which the direction does not see and no draw, whose
    sum is one, passes on.
    """
    actual = of_a_cell(lambda mix: mix, MIX, centred(DIRECTION), partial)
    np.testing.assert_allclose(actual, DRNAS[partial], rtol=1e-9)


def test_fair_darts(x64):
    """xiaomi-automl/FairDARTS: separate_loss.ConvSeparateLoss with the weight 10, less the cross
    entropy, of the sigmoids as in architect.py.
    """
    alpha = {name: jnp.asarray(wave(14, 8, shift=i)) for i, name in enumerate(sorted(DARTS.cells))}
    price, sigmoid = penalty.zero_one(DARTS.cells, 10.0), relax.sigmoid(DARTS.cells)
    value, gradient = jax.value_and_grad(lambda a: price(a, sigmoid.derive(a), 0)[0])(alpha)
    slope = sum(jnp.sum(leaf * wave(14, 8, shift=5)) for leaf in gradient.values())
    np.testing.assert_allclose((value, slope), FAIR_DARTS, rtol=1e-9)


def test_pc_darts(x64):
    """yuhuixu1993/PC-DARTS: the operations' times the edges' softmax of model_search.py.

    Its genotypes of 300 random parameters were ours too.
    """
    arch = {
        name: {"ops": jnp.asarray(wave(14, 8, shift=i)), "edges": jnp.asarray(wave(14, shift=6))}
        for i, name in enumerate(sorted(DARTS.cells))
    }
    weights = wave(14, 8, shift=7)

    def weighted(arch):
        mix = relax.edge_softmax(DARTS.cells).derive(arch)
        return sum(jnp.sum(rows * weights) for rows in mix.values())

    value, gradient = jax.value_and_grad(weighted)(arch)
    ops = sum(jnp.sum(leaf["ops"] * wave(14, 8, shift=5)) for leaf in gradient.values())
    edges = sum(jnp.sum(leaf["edges"] * wave(14, shift=5)) for leaf in gradient.values())
    np.testing.assert_allclose((value, ops, edges), PC_DARTS, rtol=1e-9)


def test_snas(x64):
    """SNAS-Series: Network._get_categ_mask of Analysis/snas/model_search.py at the temperature 0.7.

    Its uniform numbers were those of our key's noise.
    """
    alpha = {"normal": jnp.asarray(wave(14, 8))}
    cells = {"normal": DARTS.cells["normal"]}
    relaxed = relax.gumbel(cells, lambda step: 0.7)

    def weighted(alpha):
        mix = relaxed.apply(alpha, jax.random.key(3), jnp.int32(0))["normal"]
        return jnp.sum(mix * wave(14, 8, shift=7))

    value, gradient = jax.value_and_grad(weighted)(alpha)
    slope = jnp.sum(gradient["normal"] * wave(14, 8, shift=5))
    np.testing.assert_allclose((value, slope), SNAS, rtol=1e-9)
