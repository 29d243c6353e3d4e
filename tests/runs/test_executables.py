"""Executables on disk: they compute what the compiled program does, and none is out of date.

Oracle: the program, compiled again.
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts import files, parallel
from jaxdarts.runs import executables, fingerprint


def program(factor=3.0, devices=None, donate=(0,), module="jaxdarts.relax"):
    def step(state, x):
        moved = {
            "sum": state["sum"] + factor * jnp.sin(x),
            "key": jax.random.fold_in(state["key"], 1),
        }
        return moved, jax.lax.pmean(jnp.sum(x), parallel.AXIS)

    step.__module__ = module  # as if it were ours
    return parallel.over_devices(step, devices or jax.devices()[:1], donate, executables.obtained)


def arguments(devices=1):
    keys = jax.random.split(jax.random.key(0), devices)
    state = {"sum": jnp.ones((devices, 3)), "key": keys}
    return state, jnp.arange(3.0 * devices).reshape(devices, 3)


def numbers(result):
    return [
        np.asarray(jax.random.key_data(x) if parallel.is_key(x) else x)
        for x in jax.tree.leaves(result)
    ]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of executables of a command; the seconds of compilation are none of its."""
    monkeypatch.setenv(executables.SWITCH, "1")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    return tmp_path / "executables"


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, rather than read."""
    seen, compile = [], parallel.OnDevices.compile

    def counted(self, *arguments):
        seen.append(self)
        return compile(self, *arguments)

    monkeypatch.setattr(parallel.OnDevices, "compile", counted)
    return seen


@pytest.mark.parametrize("num_devices", [1, 4])
def test_what_is_read_computes_the_same(kept, compiled, devices, num_devices):
    devices = devices[:num_devices]
    first = program(devices=devices)
    expected = first(*arguments(num_devices))
    assert len(compiled) == 1 and len(list(kept.iterdir())) == 1
    second = program(devices=devices)
    given = arguments(num_devices)
    result = second(*given)
    assert len(compiled) == 1
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for a, b in zip(numbers(result), numbers(expected)):
        np.testing.assert_array_equal(a, b)
    again = second(*result[:1], given[1])  # its own results are its arguments
    for a, b in zip(numbers(again), numbers(first(expected[0], given[1]))):
        np.testing.assert_array_equal(a, b)


def test_what_is_read_uses_up_the_donated_arguments(kept):
    program()(*arguments())
    state, x = parallel.replicate((arguments()[0]["sum"][0], jnp.ones(3)), jax.devices()[:1])
    keys = arguments()[0]["key"]
    program()({"sum": state, "key": keys}, x)
    assert state.is_deleted() and not x.is_deleted()


def test_another_program_is_compiled(kept, compiled, devices, monkeypatch):
    program()(*arguments())
    program(factor=4.0)(*arguments())
    program(donate=())(*arguments())
    program(devices=devices[1:2])(*arguments())
    with monkeypatch.context() as patch:  # the source code has changed
        patch.setattr(fingerprint, "_sources", lambda: "another text")
        program()(*arguments())
    with monkeypatch.context() as patch:  # another version of a package
        patch.setattr(fingerprint.metadata, "version", lambda name: "0.0.1")
        program()(*arguments())
    with monkeypatch.context() as patch:
        options = {"xla_cpu_prefer_vector_width": "256"}
        patch.setattr(parallel, "compiler_options", lambda platform: options)
        program()(*arguments())
    state, x = arguments()
    program()(state | {"sum": state["sum"].astype(jnp.bfloat16)}, x)
    assert len(compiled) == 8 and len(list(kept.iterdir())) == 8
    program()(*arguments())
    assert len(compiled) == 8


def test_code_of_others_is_compiled_and_not_kept(kept, compiled):
    program(module=__name__)(*arguments())
    program(module=__name__)(*arguments())
    assert len(compiled) == 2 and not kept.exists()


@pytest.mark.parametrize("value", ["0", None])
def test_nothing_is_kept_outside_of_commands(kept, monkeypatch, value):
    monkeypatch.setenv(executables.SWITCH, value or "")
    program()(*arguments())
    assert not kept.exists()


def test_nothing_is_kept_without_a_cache(kept, compiled):
    jax.config.update("jax_compilation_cache_dir", None)
    program()(*arguments())
    assert len(compiled) == 1 and not kept.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"another file\n" + content,
    ],
)
def test_a_damaged_entry_is_written_again(kept, compiled, capsys, damage):
    expected = program()(*arguments())
    (path,) = kept.iterdir()
    intact = path.read_bytes()
    path.write_bytes(damage(intact))
    result = program()(*arguments())
    assert len(compiled) == 2
    np.testing.assert_array_equal(numbers(result)[1], numbers(expected)[1])
    line = capsys.readouterr().err
    assert line.startswith("warning: ") and str(path) in line and line.count("\n") == 1
    program()(*arguments())
    assert len(compiled) == 2


def test_an_entry_of_another_user_is_refused(kept, compiled, capsys, monkeypatch):
    program()(*arguments())
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    program()(*arguments())
    assert len(compiled) == 2 and "belongs to another user" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_nothing(kept, compiled):
    kept.write_text("a file where the folder should be")
    program()(*arguments())
    assert len(compiled) == 1


def test_the_folder_keeps_what_was_used_last(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.bin").write_bytes(bytes(100))
        os.utime(tmp_path / f"{i}.bin", (0, time.time() - i))
    (tmp_path / "other").write_bytes(bytes(1000))
    executables.make_room(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.bin", "1.bin", "other"]


def test_only_the_owner_may_look_into_the_folder(kept):
    program()(*arguments())
    assert kept.stat().st_mode & 0o077 == 0
    (path,) = kept.iterdir()
    with pytest.raises(files.Damaged, match="is damaged"):
        path.write_bytes(b"jaxdarts executable 1\n")
        executables.read(path, jax.devices())
