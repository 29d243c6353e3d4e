"""Searches in stages. Oracles: the settings of the authors' code by hand, closed forms of the
schedules, the stages' folders.
"""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.commands import command_line, datasets, stages
from jaxdarts.commands.search import carry, image_program
from jaxdarts.commands.search import images as script
from jaxdarts.nn import widening
from jaxdarts.runs import Stop


def parsed(*flags):
    return command_line.parse(list(flags), script.PRESETS, script.CIFAR, "", script.STARTS)


def settings(config):
    """What differs by stage: (cells, partial, dropout, operations kept of the stage before)."""
    count = stages.of(config).count
    every = [stages.of(dataclasses.replace(config, stage=n % count)) for n in range(1, count + 1)]
    return [(one.layers, one.partial, one.skip_dropout, one.keep) for one in every]


def test_pdarts_has_its_papers_settings():
    config = parsed("--dataset=cifar10", "--algorithm=pdarts")
    assert settings(config) == [(5, 1, 0.1, None), (11, 1, 0.4, 5), (17, 1, 0.7, 3)]
    assert (config.epochs, config.arch_warmup, config.batch_size) == (25, 10, 96)
    assert (config.learning_rate, config.learning_rate_min) == (0.025, 0)
    assert (config.arch_learning_rate, config.arch_grad_clip) == (6e-4, 5)
    assert (config.max_skips, len(config.ops), config.unrolled) == (2, 8, False)
    assert image_program.learning_rate(config, 12.5, math.cos) == pytest.approx(0.0125)


def test_drnas_has_its_papers_settings():
    config = parsed("--dataset=cifar10", "--algorithm=drnas")
    assert settings(config) == [(20, 6, 0.0, None), (20, 4, 0.0, 4)]
    assert (config.epochs, config.arch_warmup, config.batch_size) == (25, 10, 64)
    assert (config.init_channels, len(config.ops), config.arch_learning_rate) == (36, 7, 6e-4)
    # One cosine from 0.1 to 0 over both stages.
    first = dataclasses.replace(config, stage=1)
    rates = [image_program.learning_rate(first, e, math.cos) for e in range(25)]
    rates += [image_program.learning_rate(config, e, math.cos) for e in range(25)]
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(50) / 50))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    config = parsed("--dataset=cifar10", "--space=nasbench201", "--algorithm=drnas")
    assert settings(config) == [(5, 1, 0.0, None)] and not config.carry_weights
    assert (config.epochs, config.arch_warmup, config.batch_size) == (100, 0, 64)
    assert (config.learning_rate, config.learning_rate_min) == (0.025, 0.001)
    assert (config.arch_learning_rate, config.init_channels) == (3e-4, 16)


def test_the_second_script_of_drnas_in_nasbench201():
    """xiangning-chen/DrNAS, 201-space/train_search_progressive.py: ks, num_keeps, train_epochs."""
    flags = "--epochs=50 --stage_keep 3 --stage_partial 4 2 --carry_weights".split()
    config = parsed("--dataset=cifar10", "--space=nasbench201", "--algorithm=drnas", *flags)
    stages.check(config)
    assert settings(config) == [(5, 4, 0.0, None), (5, 2, 0.0, 3)]
    first = dataclasses.replace(config, stage=1)
    rates = [image_program.learning_rate(first, e, math.cos) for e in range(50)]
    rates += [image_program.learning_rate(config, e, math.cos) for e in range(50)]
    expected = 0.001 + 0.012 * (1 + np.cos(np.pi * np.arange(100) / 100))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert (config.batch_size, config.arch_learning_rate, config.arch_warmup) == (64, 3e-4, 0)


def test_what_the_command_line_names_holds_in_every_stage():
    config = parsed("--dataset=cifar10", "--algorithm=pdarts", "--layers=2", "--epochs=1")
    assert [one[0] for one in settings(config)] == [2, 2, 2] and config.epochs == 1
    config = parsed("--algorithm=pdarts", "--stage_layers", "2", "3", "4", "--skip_dropout=0.3")
    assert [one[::2] for one in settings(config)] == [(2, 0.3), (3, 0.3), (4, 0.3)]
    start = config.start()
    assert start.settings.stage_skip_dropout == () and start.settings.stage_layers == (3, 4, 5)


def test_reports_of_the_other_stages():
    config = parsed("--algorithm=pdarts")
    assert stages.reports(config) == {
        "stage 1 of 3": "stage1/report.html",
        "stage 2 of 3": "stage2/report.html",
    }
    assert stages.reports(dataclasses.replace(config, stage=2)) == {
        "stage 1 of 3": "../stage1/report.html",
        "stage 3 of 3": "../report.html",
    }
    assert stages.reports(parsed()) == stages.reports(object()) == {}


@pytest.mark.parametrize("warm_up", [0, 10])
def test_dropout_fades_within_a_stage(warm_up):
    rate = jd.algorithms.fading_dropout(0.4, 25, warm_up, steps_per_epoch=7)
    for epoch in range(25):
        if epoch < warm_up:
            expected = 0.4 * (25 - epoch - 1) / 25
        else:
            expected = 0.4 * math.exp(-0.2 * (epoch - warm_up))
        for step in (7 * epoch, 7 * epoch + 6):
            assert float(rate(step)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "flags, line",
    [
        ("--stage_layers 1 2", "--stage_layers=1 2: there is one stage only; --stage_keep makes"),
        ("--stage_keep 3 --stage_partial 2", "--stage_partial=2: needed are 2 numbers"),
        ("--stage_keep 3 --stage=2", "--stage=2: must be at most 1"),
        ("--stage_keep 3 --num_seeds=2", "--num_seeds=2: not in a search of 2 stages"),
        ("--stage_keep 0", "--stage_keep=0: must be positive"),
        (
            "--ops none skip_connect max_pool_3x3 --stage_keep 2 1",
            "--stage_keep=2 1: must be at least 2, since none is one of --ops",
        ),
        (
            "--stage_keep 3 --carry_weights --stage_layers 1 2",
            "--stage_layers=1 2: --carry_weights takes over the weights of every cell",
        ),
        (
            "--stage_keep 3 --carry_weights --stage_partial 2 4",
            "--stage_partial=2 4: --carry_weights makes the operations wider",
        ),
        ("--space=nasbench201 --algorithm=pdarts", "not in --space=nasbench201"),
        ("--space=nasbench201 --stage_keep 6", "--stage_keep=6: no number may be above the one"),
        ("--space=s1 --stage_keep 3", "--stage_keep=3: no number may be above the one before, or"),
        ("--space=s1 --stage_keep 3", "above the 2 operations of an edge (--space=s1)"),
        ("--space=nasbench201 --stage_keep 1", "--stage_keep=1: must be at least 2, since none"),
        (
            "--space=nasbench201 --stage_keep 3 --stage_skip_dropout 0.1 0.2",
            "--stage_skip_dropout=(0.1, 0.2): not in --space=nasbench201",
        ),
    ],
)
def test_stages_that_cannot_work(flags, line):
    with pytest.raises(Stop) as caught:
        script.main(["--num_devices=1", *flags.split()])
    assert line in str(caught.value) and caught.value.code == 2


@pytest.mark.parametrize("algorithm", ["drnas", "pdarts"])
@pytest.mark.parametrize("space", ["s1", "s2", "s3", "s4"])
def test_few_candidates_an_edge_leave_one_stage(space, algorithm):
    config = script.parse(["--dataset=cifar10", f"--space={space}", f"--algorithm={algorithm}"])
    stages.check(config)
    assert stages.of(config).count == 1 and not config.carry_weights
    assert stages.of(script.parse(["--dataset=cifar10", f"--algorithm={algorithm}"])).count > 1


def state_of(folder, program):
    like = jd.runs.checkpoint_form(program.init)
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        return jd.runs.checkpoint.restore(checkpoints, like, None)["state"]


def test_an_interrupted_search_in_stages_goes_on(tmp_path, monkeypatch):
    run, search = tmp_path / "run", script.search

    stops = [1, 0]  # in the first stage, then in the last one

    def stopped(config, *arguments):
        if config.stage in stops:
            stops.remove(config.stage)
            raise KeyboardInterrupt
        return search(config, *arguments)

    monkeypatch.setattr(script, "search", stopped)
    flags = (
        "--algorithm=drnas --layers=1 --nodes=1 --ops skip_connect max_pool_3x3 sep_conv_3x3"
        " --stage_keep 2 --epochs=1 --max_steps=3 --arch_warmup=0 --num_devices=1"
    )
    cache = f"--cache_dir={jax.config.jax_compilation_cache_dir}"
    with pytest.raises(Stop, match=f"SIGINT.*continue with --resume={run}"):
        script.main([*flags.split(), f"--run_dir={run}", cache])
    with pytest.raises(Stop, match=f"SIGINT.*continue with --resume={run}"):
        script.main([f"--resume={run}"])
    assert not stops and not (run / "genotype.json").exists()
    first = (run / "stage1" / "metrics.jsonl").stat()
    moved = run.rename(tmp_path / "moved")
    script.main([f"--resume={moved}"])
    assert (moved / "stage1" / "metrics.jsonl").stat() == first
    jd.genotypes.check(jd.genotypes.from_json((moved / "genotype.json").read_text()))

    # Every report leads to the other.
    for folder in (moved, moved / "stage1"):
        links = re.findall(r'<a href="([^"#]+)">stage', (folder / "report.html").read_text())
        assert len(links) == 1 and (folder / links[0]).exists()

    # The operations are the strongest ones of the first stage.
    with np.load(moved / "stage1" / "alphas.npz") as alphas:
        mixes = {name: alphas[name][-1] for name in ("normal", "reduce")}
    names = ("skip_connect", "max_pool_3x3", "sep_conv_3x3")
    space = json.loads((moved / "space.json").read_text())
    for name, mix in mixes.items():
        for row, ops in zip(mix, space[name]["ops"], strict=True):
            assert ops == [names[i] for i in sorted(np.argsort(-row)[:2])]
    facts = [json.loads((f / "facts.json").read_text()) for f in (moved / "stage1", moved)]
    assert facts[1]["wall_time"] > facts[0]["wall_time"] > 0

    # The second stage starts from the weights, the momentum and alpha of the first one.
    config = dataclasses.replace(parsed(f"--resume={moved}"), num_devices=1)
    dataset = datasets.load(config)
    source = dataclasses.replace(config, stage=1, run_dir=str(moved / "stage1"))
    old, new = (script.build(one, dataset) for one in (source, config))
    before, start = state_of(moved / "stage1", old), new.init()
    state = script.carried(config, dataset, start, new).state
    nets = [
        script.supernet(one, program.space, 10) for one, program in ((source, old), (config, new))
    ]
    expected = widening.carried(
        jax.tree.map(lambda x: x[0], before.params), *nets, np.random.default_rng(config.seed)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), state.params, expected)
    chosen = {
        name: widening.columns(old.space.cells[name], new.space.cells[name]) for name in mixes
    }
    for part in (
        (state.arch, before.arch),
        *((optax.tree.get(s.arch_opt, n) for s in (state, before)) for n in ("mu", "nu")),
    ):
        after, first = part
        for name, kept in chosen.items():
            np.testing.assert_array_equal(
                after[name][0], np.take_along_axis(np.asarray(first[name][0]), kept, axis=1)
            )
    traces = [np.asarray(optax.tree.get(s.params_opt, "trace"))[0] for s in (before, state)]
    assert np.isin(traces[1], traces[0]).all() and traces[0].any()
    assert int(optax.tree.get(state.arch_opt, "count")[0]) == 3 and int(state.step[0]) == 0


def test_alpha_is_carried_over_whatever_its_optimiser_keeps():
    """Plain SGD (gaea) has no moments."""
    space = jd.spaces.darts(1, ("skip_connect", "max_pool_3x3"))
    net = space.supernet(width=2, depth=1, num_classes=3)
    images = jnp.zeros((1, 4, 4, 1))
    params = net.init(jax.random.key(0), images, net.example_mix())["params"]
    search = jd.bilevel_search(
        jd.objectives.classification(net),
        jd.algorithms.gaea(space),
        optax.flatten(optax.sgd(0.1, momentum=0.9)),
        optax.sgd(0.1),
    )
    start = search.init(jax.random.key(0), params)
    before = dataclasses.replace(start, arch=jax.tree.map(lambda a: a + 1, start.arch))
    start, before = (jax.tree.map(lambda leaf: leaf[None], one) for one in (start, before))
    state = carry.carried(start, before, net, net, 0)
    jax.tree.map(np.testing.assert_array_equal, state.arch, before.arch)
    assert jax.tree.structure(state) == jax.tree.structure(start)
