"""Programs for devices that are not there. With the plugins at hand (`jax[cuda13]`, `jax[tpu]`),
their size is watched.
"""

import importlib.util
import types

import jax
import jax.numpy as jnp
import pytest

import jaxdarts as jd
from jaxdarts import aot

PROGRAM = """HloModule example, is_scheduled=true

%fused_add (p0: f32[8,16], p1: f32[8,16]) -> f32[8,16] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[8,16]{1,0} parameter(1)
  ROOT %add.1 = f32[8,16]{1,0} add(%p0, %p1)
}

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %more = f32[8,16]{1,0} fusion(%x, %x), kind=kLoop, calls=%fused_add
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%i, %more)
}

%condition (state.1: (s32[], f32[8,16])) -> pred[] {
  %state.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  ROOT %again = pred[] constant(true)
}

ENTRY %main (a: f32[8,16], b: bf16[16,4]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,16]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body, LOOP
  %last = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  %sum = f32[8,16]{1,0} all-reduce(%last), replica_groups={{0,1}}, to_apply=%fused_add
  %product = bf16[8,4]{1,0} custom-call(%sum, %b), custom_call_target="__cublas$gemm"
  ROOT %out = f32[8,16]{1,0} fusion(%sum, %a), kind=kOutput, calls=%fused_add, CYCLES
}
""".replace("LOOP", 'backend_config={"known_trip_count":{"n":"5"}}').replace(
    "CYCLES", 'backend_config={"estimated_cycles":"300"}'
)


def text_of(program: str):
    memory = types.SimpleNamespace(argument_size_in_bytes=3e6, temp_size_in_bytes=2e6)
    return types.SimpleNamespace(
        as_text=lambda: program, memory_analysis=lambda: memory, cost_analysis=lambda: None
    )


def test_figures_of_a_program_by_hand():
    array, small = 8 * 16 * 4, (16 * 4 + 8 * 4) * 2
    assert aot.figures(text_of(PROGRAM)) == {
        "argument_mb": 3.0,
        "temporary_mb": 2.0,
        "kernels": 4,
        "launches": 8.0,  # the one in the loop five times
        "library_calls": 1,
        "instructions": PROGRAM.count(" = "),
        "kinds": {"fusion": 2, "all-reduce": 1, "custom-call": 1},
        "gigabytes": pytest.approx((5 * 3 * array + 2 * array + array + small + 3 * array) / 1e9),
        "megacycles": pytest.approx(300e-6),
        "all_reduces": 1.0,
        "all_reduce_mb": pytest.approx(array / 1e6),
    }


def test_a_program_of_this_machine():
    x = jnp.ones((8, 8))
    figures = aot.figures(jax.jit(lambda x: jnp.sin(x) @ x).lower(x).compile())
    assert figures["argument_mb"] == x.nbytes / 1e6 and figures["kernels"] >= 1


def test_unknown_devices():
    with pytest.raises(ValueError, match="no device is called 'h1000': there are t4, l4"):
        aot.target("h1000")


@pytest.mark.parametrize("name, extra", [("h100", "cuda13"), ("v5e", "tpu")])
def test_a_missing_plugin_is_named(name, extra, monkeypatch):
    def missing(**options):
        raise RuntimeError("no plugin\nand a long story")

    monkeypatch.setattr(aot.topologies, "get_topology_desc", missing)
    with pytest.raises(
        RuntimeError, match=rf"pip install 'jax\[{extra}\]=={jax.__version__}' \(no plugin\)"
    ):
        aot.target(name)


def weight_gradient():
    """The gradient of a supernet with one node, all operations and one cell, and its arguments."""
    space = jd.spaces.darts(1)
    net = space.supernet(width=4, depth=1, num_classes=3)
    images, mix = net.example_inputs((8, 8, 3))
    params = net.init(jax.random.key(1), images, mix)["params"]
    batch = {"image": jnp.zeros((8, 8, 8, 3)), "label": jnp.zeros(8, jnp.int32)}
    objective = jd.objectives.classification(net)
    return jax.grad(
        lambda params, mix, batch: objective(params, mix, (), batch, None)[0], (0, 1)
    ), (params, mix, batch)


SIZES = {
    "h100": {"kernels": 114, "gigabytes": 0.00489},
    "v5e": {"kernels": 238, "gigabytes": 0.0693},
}
"""As jaxlib 0.10.2 compiles it. Lower them when they fall."""
PLUGINS = {"h100": "jax_plugins.xla_cuda13", "v5e": "libtpu"}


@pytest.mark.parametrize("name", SIZES)
def test_a_gradient_has_not_grown_by_a_fifth(name):
    package = PLUGINS[name].partition(".")[0]
    if not importlib.util.find_spec(package) or not importlib.util.find_spec(PLUGINS[name]):
        pytest.skip(f"{PLUGINS[name]} is not installed: nothing compiles for a {name}")
    if jax.__version__ != "0.10.2":
        pytest.skip(f"counted with JAX 0.10.2, this is {jax.__version__}")
    function, arguments = weight_gradient()
    target = aot.target(name)
    lowered = aot.lowered(function, *arguments, target=target)
    figures = aot.figures(aot.compile_lowered(lowered, target, exec_time_optimization_effort=-1.0))
    for figure, size in SIZES[name].items():
        assert 0.8 * size < figures[figure] < 1.2 * size, f"{figure}: {figures[figure]}"
