"""Checkpoints. Oracle: what was saved, to the bit; and one clear line for whatever can be wrong
with a folder.
"""

import os
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdarts import runs
from jaxdarts.runs import checkpoint

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.adam(1e-3))
CONFIG = {"width": 16, "algorithm": "darts", "rate": 0.025, "cutout": None}


def tree(seed=0):
    params = {
        "w": jax.random.normal(jax.random.key(seed), (3, 2)),
        "b": jnp.full(2, seed, jnp.bfloat16),
    }
    state = TX.init(params)
    _, state = TX.update(jax.tree.map(jnp.ones_like, params), state, params)
    key = jax.random.key(seed)
    keys = {"key": key, "keys": jax.random.split(key, 2)}
    return {"params": params, "opt": state, "step": jnp.int32(seed), "carry": ((), ())} | keys


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)  # optax's named tuples among them
    data = [
        {**t, "key": jax.random.key_data(t["key"]), "keys": jax.random.key_data(t["keys"])}
        for t in (a, b)
    ]
    chex.assert_trees_all_equal(*data)
    chex.assert_trees_all_equal_dtypes(*data)
    assert jax.random.key_impl(a["key"]) == jax.random.key_impl(b["key"])


def write(folder, *seeds, config=CONFIG):
    with checkpoint.open_folder(folder) as manager:
        for seed in seeds:
            checkpoint.save(manager, seed, tree(seed), config)


def read(folder, like=None, config=CONFIG):
    with checkpoint.open_folder(folder) as manager:
        return checkpoint.restore(manager, tree(99) if like is None else like, config)


def assert_one_line(error, *words):
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_round_trip(tmp_path):
    write(tmp_path / "deep" / "er", 1)
    assert_same(read(tmp_path / "deep" / "er"), tree(1))


def test_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("runs", 1)
    assert (tmp_path / "runs").is_dir()
    assert_same(read("runs"), tree(1))


def test_the_newest_is_read_and_old_ones_go(tmp_path):
    write(tmp_path, 1, 2, 10)
    assert_same(read(tmp_path), tree(10))
    with checkpoint.open_folder(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [2, 10]


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 1, tree(1), CONFIG)
        checkpoint.save(manager, 1, tree(2), CONFIG)
    assert_same(read(tmp_path), tree(1))


def test_another_configuration_is_refused_by_name(tmp_path):
    write(tmp_path, 4)
    with pytest.raises(checkpoint.CheckpointError) as error:
        read(tmp_path, config={**CONFIG, "width": 36})
    assert_one_line(error, "checkpoint 4", "width=16", "width=36")
    with pytest.raises(checkpoint.CheckpointError) as error:
        read(tmp_path, config={**CONFIG, "depth": 8})
    assert_one_line(error, "depth=None", "depth=8")


def test_a_flag_that_is_newer_than_the_checkpoint(tmp_path):
    write(tmp_path, 1)
    for off in ([], 0, False, None, float("inf")):
        assert_same(read(tmp_path, config={**CONFIG, "newer": off}), tree(1))
    config, defaults = {**CONFIG, "newer": 2}, {"newer": 2, "width": 9}
    with checkpoint.open_folder(tmp_path) as manager:
        assert_same(checkpoint.restore(manager, tree(99), config, defaults=defaults), tree(1))
        for wrong in ({**config, "newer": 3}, {**config, "width": 9}):
            with pytest.raises(checkpoint.OtherConfiguration):
                checkpoint.restore(manager, tree(99), wrong, defaults=defaults)


def test_empty_folder(tmp_path):
    with pytest.raises(checkpoint.CheckpointError) as error:
        read(tmp_path)
    assert_one_line(error, str(tmp_path), "no complete checkpoint")


@pytest.mark.parametrize(
    "like", [{"w": jnp.zeros((4, 2))}, {"w": jnp.zeros((3, 2)), "extra": jnp.zeros(2)}]
)
def test_another_tree(tmp_path, like):
    # A tree of one array: where one of several cannot be read, orbax drops the coroutines that read
    # the others, and they warn when they are collected, during any later test.
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 1, {"w": jnp.ones((3, 2))}, CONFIG)
    with pytest.raises(checkpoint.CheckpointError) as error:
        read(tmp_path, like)
    assert_one_line(error, "cannot read checkpoint 1")


def test_a_folder_that_is_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "runs").write_text("")
    with (
        pytest.raises(checkpoint.CheckpointError) as error,
        checkpoint.open_folder(tmp_path / "runs"),
    ):
        pass
    assert_one_line(error, str(tmp_path / "runs"), "it is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(checkpoint.CheckpointError, match="cannot use"):
        write(tmp_path / "runs", 1)


def test_a_disk_that_fails_while_saving(tmp_path, monkeypatch):
    write(tmp_path, 1)
    with checkpoint.open_folder(tmp_path) as manager:

        def fail(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(manager, "save", fail)
        with pytest.raises(checkpoint.CheckpointError) as error:
            checkpoint.save(manager, 2, tree(2), CONFIG)
    assert_one_line(error, "cannot write checkpoint 2", "the disk is full", "newest complete: 1")
    assert_same(read(tmp_path), tree(1))


def test_a_file_that_may_not_grow_any_more(tmp_path):
    big = {
        "w": jnp.asarray(np.random.default_rng(0).standard_normal(100_000), jnp.float32)
    }  # does not compress
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 1, big, CONFIG)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(checkpoint.CheckpointError) as error:
                checkpoint.save(manager, 2, {"w": big["w"] + 1}, CONFIG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(error, "cannot write checkpoint 2", "File too large", "newest complete: 1")
    with checkpoint.open_folder(tmp_path) as manager:
        np.testing.assert_array_equal(checkpoint.restore(manager, big, CONFIG)["w"], big["w"])
        checkpoint.save(manager, 2, {"w": big["w"] + 1}, CONFIG)
        np.testing.assert_array_equal(checkpoint.restore(manager, big, CONFIG)["w"], big["w"] + 1)


def test_a_half_written_save_is_ignored_and_removed(tmp_path):
    write(tmp_path, 1)
    half = (
        tmp_path / "2.orbax-checkpoint-tmp"
    )  # what a process leaves that is killed while it saves
    (half / "state").mkdir(parents=True)
    (half / "state" / "data").write_bytes(b"\0" * 100)
    assert_same(read(tmp_path), tree(1))
    assert not half.exists()
    write(tmp_path, 2)
    assert_same(read(tmp_path), tree(2))


def test_restored_arrays_work_on(tmp_path):
    write(tmp_path, 3)
    restored = read(tmp_path)
    assert jax.random.uniform(restored["key"]) == jax.random.uniform(jax.random.key(3))
    updates, _ = TX.update(restored["params"], restored["opt"], restored["params"])
    expected, _ = TX.update(tree(3)["params"], tree(3)["opt"], tree(3)["params"])
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_the_form_of_a_program_restores_onto_this_device(tmp_path):
    """What another machine, or another of its devices, has written."""
    devices = jax.local_devices()
    training = runs.Training(tree(3), {"loss": jnp.float32(1)})
    saved = jax.device_put(runs.saved_form(training, jnp.float32(2)), devices[-1])
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 3, saved, CONFIG)
        restored = checkpoint.restore(manager, runs.checkpoint_form(lambda: training), CONFIG)
    assert_same(restored["state"], saved["state"])
    assert (restored["sums"]["loss"], restored["seconds"]) == (1, 2)
    assert {leaf.device for leaf in jax.tree.leaves(restored)} == {devices[0]} != {devices[-1]}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def garbled(path):
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def removed(path):
    path.unlink()


def data_file(folder):
    """The largest file of a checkpoint: the arrays."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


DAMAGES = [cut, emptied, garbled, one_bit, removed]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_of_the_newest_leads_to_the_one_before(tmp_path, damage):
    write(tmp_path / "intact", 1, 2)
    names = [
        p.relative_to(tmp_path / "intact" / "2")
        for p in sorted((tmp_path / "intact" / "2").rglob("*"))
        if p.is_file() and p.name != checkpoint.CHECKSUMS and p.stat().st_size
    ]
    assert len(names) > 5
    for i, name in enumerate(names):
        copy = tmp_path / str(i)
        shutil.copytree(tmp_path / "intact", copy)
        damage(copy / "2" / name)
        lines = []
        with checkpoint.open_folder(copy) as manager:
            newest = checkpoint.restore_newest(manager, tree(99), CONFIG)
            restored = checkpoint.restore(manager, tree(99), CONFIG, say=lines.append)
            with pytest.raises(checkpoint.Unusable):
                checkpoint.restore(manager, tree(99), CONFIG, 2)
        assert (newest.step, list(newest.unusable)) == (1, [2])
        assert_same(newest.tree, tree(1))
        assert_same(restored, tree(1))
        (line,) = lines
        assert str(name) in line and "checkpoint 2" in line and line.endswith("step 1 is taken")
        assert "\n" not in line


def test_a_checkpoint_without_checksums_is_read(tmp_path):
    """Older versions wrote none; nor does a process that is killed just then."""
    write(tmp_path, 1, 2)
    (tmp_path / "2" / checkpoint.CHECKSUMS).unlink()
    assert_same(read(tmp_path), tree(2))
    emptied(tmp_path / "2" / "config" / "metadata")
    assert_same(read(tmp_path), tree(1))


def test_no_intact_checkpoint(tmp_path):
    write(tmp_path, 1, 2)
    for step in ("1", "2"):
        garbled(data_file(tmp_path / step))
    with pytest.raises(checkpoint.Unusable) as error:
        read(tmp_path)
    assert_one_line(error, "cannot read checkpoint 2", "is damaged", "1 older")


def test_a_checkpoint_set_aside_makes_room(tmp_path):
    write(tmp_path, 1, 2)
    garbled(data_file(tmp_path / "2"))
    with checkpoint.open_folder(tmp_path) as manager:
        assert checkpoint.set_aside(manager, 2) == tmp_path / "damaged-2"
        assert list(manager.all_steps()) == [1]
        checkpoint.save(manager, 2, tree(2), CONFIG)
        assert_same(checkpoint.restore(manager, tree(99), CONFIG), tree(2))
        assert checkpoint.set_aside(manager, 2) == tmp_path / "damaged-2-1"
    assert_same(read(tmp_path), tree(1))
