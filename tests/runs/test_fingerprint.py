"""Equal programs have equal fingerprints, others do not. Oracle: the definition."""

import dataclasses
import functools
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

from jaxdarts import parallel
from jaxdarts.commands import datasets
from jaxdarts.commands.search import images, text
from jaxdarts.runs import fingerprint, flags

of = fingerprint.of


def closing_over(value):
    """A function as the library would have it."""

    def function(x):
        return x, value

    function.__module__ = "jaxdarts.relax"
    return function


VALUES = [
    None,
    True,
    1,
    1.0,
    -0.0,
    "1",
    b"1",
    (1,),
    [1],
    [[1]],
    {"a": 1},
    {"a": 2},
    FrozenDict({"a": 1}),
    {1},
    frozenset({1}),
    range(3),
    np.arange(3),
    np.arange(3.0),
    np.arange(3).reshape(3, 1),
    jnp.arange(3),
    np.float32(1),
    np.dtype("float32"),
    jnp.float32,
    jnp.bfloat16,
    jax.random.key(0),
    jax.random.key(1),
    jax.random.key(0, impl="rbg"),
    jax.ShapeDtypeStruct((1,), "float32"),
    jax.ShapeDtypeStruct((2,), "float32"),
    jax.tree.structure({"a": 1}),
    functools.partial(jnp.sum, axis=0),
    functools.partial(jnp.sum, axis=1),
    jnp.sum,
    jax.nn.relu,
    max,
    min,
    optax.sgd(0.1),
    optax.sgd(0.1, momentum=0.9),
    optax.adam(0.1),
]


def test_different_values_differ():
    prints = [of(value) for value in VALUES]
    assert len(set(prints)) == len(VALUES)


def test_functions_differ_in_what_they_close_over_and_in_nothing_else():
    prints = [of(closing_over(value)) for value in VALUES]
    assert len(set(prints)) == len(VALUES)
    assert of(closing_over([1, {"a": 2.0}])) == of(closing_over([1, {"a": 2.0}]))
    assert of(jax.jit(closing_over(1))) != of(jax.jit(closing_over(2)))
    assert of(jax.vmap(closing_over(1))) != of(jax.vmap(closing_over(2)))


def test_values_made_again_are_equal():
    for make in (
        lambda: optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.1)),
        lambda: jax.random.key(3),
        lambda: np.ones(3),
    ):
        assert of(make()) == of(make())


# In a process of its own: the suite checks types by wrappers, which are code of others.
PARTS = """
import jaxdarts as jd
from jaxdarts.commands import datasets
from jaxdarts.commands.search import images
from jaxdarts.runs import fingerprint
space = jd.spaces.darts()
net = lambda **changes: space.supernet(**dict(width=4, depth=3, num_classes=10) | changes)
parts = [space, jd.spaces.darts(2), jd.spaces.s1(), net(), net(num_classes=11)]
parts += [make(space) for make in (jd.algorithms.darts, jd.algorithms.drnas, jd.algorithms.milenas)]
parts += [jd.algorithms.darts(space, order=1), jd.objectives.classification(net())]
parts += [jd.objectives.classification(net(width=8))]
def programs(*flags):
    config = images.parse(["--num_devices=1", *flags])
    program = images.build(config, datasets.load(config))
    return [program.step.function, program.eigenvalue.function, program.tune.function]
for flags in ((), ("--learning_rate=0.2",), ("--algorithm=pc_darts",), ("--num_seeds=2",)):
    parts += programs(*flags)
parts += programs("--seed=5", "--run_dir=elsewhere", "--max_steps=3")
print(*map(fingerprint.of, parts))
"""


def test_parts_of_the_library_are_equal_in_every_process():
    def prints(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PARTS]
        out = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert not out.returncode, out.stderr
        return out.stdout.split()

    one, other = prints("1"), prints("2")
    assert one == other
    *different, step, eigenvalue, tune = one
    assert len(set(different)) == len(different)
    assert [step, eigenvalue, tune] == different[-12:-9]  # another seed, another folder


def test_what_refers_to_itself_ends():
    def function():
        return function

    function.__module__ = "jaxdarts.relax"
    assert of(function) == of(function)
    endless: list = []
    endless.append(endless)
    assert of(endless) != of([[]])


def foreign():
    """A function of a module that is not ours."""


@pytest.mark.parametrize(
    "value",
    [
        foreign,
        lambda: None,
        types.SimpleNamespace(a=1),
        np.random.default_rng(0),
        iter([1]),
        optax.sgd(lambda step: 0.1),
        type("Own", (), {}),
        type("OwnTuple", (tuple,), {})(),
        jax.jit(foreign),
        functools.partial(foreign, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_of_others_has_none(value):
    with pytest.raises(fingerprint.Unknown):
        of(closing_over(value))


def test_arguments_count_by_shape_and_type():
    function = closing_over(1)
    arguments = [
        (np.zeros((2, 3), "float32"),),
        (np.zeros((3, 2), "float32"),),
        (np.zeros((2, 3), "int32"),),
        ({"a": np.zeros((2, 3), "float32")},),
        (jnp.asarray(1.0),),
        (jnp.float32(1.0),),
        (jax.random.key(0),),
        (1.0,),
    ]
    prints = [fingerprint.of_program(function, one) for one in arguments]
    assert len(set(prints)) == len(arguments) - 1  # jnp.asarray(1.0) is 1.0
    abstract = jax.ShapeDtypeStruct((2, 3), "float32")
    assert fingerprint.of_program(function, (abstract,)) == prints[0]
    assert fingerprint.of_program(function, arguments[0], "another device") != prints[0]


def test_source_code_versions_and_settings_count(monkeypatch):
    function, before = closing_over(1), []

    def changed():
        before.append(fingerprint.of_program(function, ()))
        return len(set(before)) == len(before)

    assert changed()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_sources", lambda: "other text")
        assert changed()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint.metadata, "version", lambda name: "0.0.1")
        assert changed()
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_another=1")
        assert changed()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_processor", lambda: "another one")
        assert changed()
    with jax.numpy_rank_promotion("allow"):
        pass
    precision = jax.config.jax_default_matmul_precision
    try:
        jax.config.update("jax_default_matmul_precision", "float32")
        assert changed()
    finally:
        jax.config.update("jax_default_matmul_precision", precision)
    assert fingerprint.of_program(function, ()) == before[0]


@pytest.mark.parametrize("kind", [images.Config, text.Config])
def test_flags_of_a_run_alone_are_left_out(kind):
    config = images.parse([]) if kind is images.Config else text.parse(["--dataset=ptb"])
    names = flags.not_compiled(kind)
    assert {"run_dir", "resume", "report_freq", "cache_dir", "seed", "max_steps"} <= names
    assert not names & {"epochs", "batch_size", "learning_rate", "space", "num_seeds", "tune_steps"}
    moved = dataclasses.replace(config, run_dir="elsewhere", seed=9, report_freq=7)
    assert of(config) == of(moved) != of(dataclasses.replace(config, epochs=9_999))


def test_a_step_does_not_depend_on_the_flags_that_are_left_out(tmp_path):
    """Oracle: the text of the program that JAX compiles."""

    def lowered(*given):
        config = images.parse(["--layers=1", "--nodes=1", "--num_devices=1", *given])
        program = images.build(config, datasets.load(config))
        training, order = program.init(), program.order(0)
        arguments = parallel.replicate((training, program.data), program.devices)
        step = program.step.mapped.lower(
            *arguments, order.train[:, :, 0], order.val[:, :, 0], order.keys
        )
        return step.as_text()

    other = [f"--{name}={tmp_path}" for name in ("run_dir", "cache_dir")]
    other += [f"--{name}=7" for name in ("seed", "max_steps", "report_freq", "checkpoint_freq")]
    other += ["--keep_checkpoints=7", "--tracker=none"]
    names = {flag.partition("=")[0].removeprefix("--") for flag in other}
    assert names | {"resume"} == flags.not_compiled(images.Config)
    assert lowered() == lowered(*other) != lowered("--learning_rate=0.3")
