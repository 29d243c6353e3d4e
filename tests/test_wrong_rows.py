"""A bug of XLA for CPUs under plain `jit` (jax#39103), and that our options protect from it.

jaxlib 0.10.2 hands a matrix product and the reduction behind it to the YNNPACK library as one
fusion. In float32 the rows after the 32,768th are wrong where a matrix of two or three rows stands
on the left, and on the right, transposed, one of 3 columns and up to about 43,500 rows; in float64
the rows after the 16,384th, also with five to seven columns. Products and reductions alone are
right, and so is a product with the tall matrix on the left. In this version a sum over one of seven
axes, of which another has size one, may end the process (jax#40412).

XLA's flags belong to a process, so each case has a process of its own.
"""

import os
import platform
import subprocess
import sys

import jaxlib
import pytest

from jaxdarts import parallel

WRONG = ("0.10.2",)
"""Versions of jaxlib that are known to be wrong; 0.10.0, 0.10.1, 0.11.0, 0.11.2 and 0.12.0.1 are
right.
"""

COUNT = """
import sys
import jax
import jax.numpy as jnp
import numpy as np

random = np.random.default_rng(0)
x, m = random.normal(size=(35_937, 3)), random.normal(size=(3, 3))
right = ((x @ m.T) ** 2).sum(1)

def squares(x, m):
    return jax.vmap(lambda row: jnp.sum((m @ row) ** 2))(x)

options = dict(option.split("=") for option in sys.argv[1:])
result = jax.jit(squares, compiler_options=options)(x.astype(np.float32), m.astype(np.float32))
print(int(np.sum(np.abs(np.asarray(result, np.float64) - right) > 1e-5 * right.max())))
"""

SUM = """
import jax
import jax.numpy as jnp
import numpy as np

x = np.random.default_rng(0).normal(size=(3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
np.testing.assert_allclose(jax.jit(lambda x: jnp.sum(x * x, axis=3))(x), (x * x).sum(3), rtol=1e-5)
"""


def run(code: str, flags: str, *arguments: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment.pop("JAX_COMPILATION_CACHE_DIR")  # a program of a mended jaxlib is not looked up
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


def test_compiler_options_give_the_right_numbers():
    options = parallel.compiler_options("cpu")
    assert int(run(COUNT, "", *[f"{name}={value}" for name, value in options.items()])) == 0


def test_flags_give_the_right_numbers():
    assert int(run(COUNT, parallel.XLA_FLAGS)) == 0
    run(SUM, parallel.XLA_FLAGS)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the bug is known on x86-64 only")
def test_plain_jit_is_wrong_where_it_is_known_to_be():
    """Fails when a version is mended, or another one is wrong: then `WRONG` and the README have to
    say so.
    """
    assert (int(run(COUNT, "")) > 0) == (jaxlib.__version__ in WRONG)
