"""The algorithms and options of the search script, each in a real search of seconds."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxdarts as jd
from jaxdarts.commands import command_line, methods
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.search import flags as search_flags
from jaxdarts.commands.search import image_program
from jaxdarts.commands.search import images as script
from jaxdarts.commands.search import results as search_results
from jaxdarts.runs import Stop

TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect --init_channels=4 --epochs=2 --num_devices=1"
).split()
# Most of such a run would be the validation of cells: on a tenth of the images instead of a half.
FEW_IMAGES = "--train_portion=0.9"
SHORT = [*TINY, "--max_steps=3", FEW_IMAGES]


def searched(tmp_path, *flags, base=SHORT):
    folder = tmp_path / "run"
    script.main(
        [
            *base,
            f"--cache_dir={jax.config.jax_compilation_cache_dir}",
            f"--run_dir={folder}",
            *flags,
        ]
    )
    return folder


def records(folder):
    return jd.files.read_json_lines(folder / "metrics.jsonl")


TINY_STAGES = {
    "drnas": "--stage_keep 2 --init_channels=12".split(),
    "pdarts": "--stage_keep 2 2 --stage_layers 1 1 2".split(),
}


TINY_SETTINGS = {
    "joint": ["--train_portion=1"],  # as its preset
    "lambda_darts": ["--layers=4"],
    "fixed_alpha": ["--tune_steps=1"],
    "shapley_nas": ["--derive_batches=1", "--shapley_orders=2"],
}
# One of each kind: a second derivative, a draw of one path, two sorts of stages, one level, a rule
# for gradients of weights, none that learns alpha, and decisions of two kinds.
# `test_parts_of_methods_go_together` and `test_nasbench201` run others.
KINDS = (
    "darts",
    "gdas",
    "drnas",
    "pdarts",
    "joint",
    "oles",
    "random_sharing",
    "fixed_alpha",
    "shapley_nas",
)
# An eigenvalue takes a program of its own, whose only part of a method is the derived mix.
CURVED = ("darts", "drnas", "random_sharing")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_searches(name, tmp_path):
    flags = [f"--algorithm={name}", *TINY_STAGES.get(name, []), *TINY_SETTINGS.get(name, [])]
    folder = searched(tmp_path, *flags, f"--eigenvalue_freq={int(name in CURVED)}")
    assert ("eigenvalue" in records(folder)[0]) == (name in ("darts", "drnas"))
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["algorithm"] == name and np.isfinite(facts["found_cell_supernet_loss"])
    jd.genotypes.check(jd.genotypes.from_json((folder / "genotype.json").read_text()))
    assert json.loads((folder / "config.json").read_text())["unrolled"] == (name == "darts")
    assert name in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name not in KINDS])
def test_every_method_has_a_program(name):
    """It is traced, not compiled: `test_every_kind_of_method_searches` does that, and the table in
    tests/test_algorithms.py runs the step of every method.
    """
    flags = [*SHORT, f"--algorithm={name}", *TINY_SETTINGS.get(name, [])]
    config = command_line.parse(flags, script.PRESETS, script.CIFAR, "", script.STARTS)
    search_flags.check(config)
    assert not config.unrolled
    program = script.build(config, jd.data.images.load("digits"))
    order, training = program.order(0), jax.eval_shape(program.init)
    inputs = program.data, order.train[0, :, 0], order.val[0, :, 0], order.keys[0]
    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),  # of one device
        (training, *inputs),
    )
    new = jax.eval_shape(program.step.mapped, *given)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, given[0])
    assert {"train_loss", "valid_loss", "arch_gradient_norm"} <= set(new.sums)
    mixes = jax.eval_shape(program.derive, training.state)
    for cell, choices in program.space.cells.items():
        assert mixes[cell].shape == (1, *choices.shape)


def made(*flags):
    config = command_line.parse(list(flags), script.PRESETS, script.CIFAR, "", script.STARTS)
    space = methods.space_of(config)
    return config, space, methods.of_space(config, space, steps_per_epoch=5)


def test_parts_of_methods_go_together(tmp_path):
    """PC-DARTS with adversarial weights and beta-DARTS' penalty, in a search of seconds."""
    flags = "--perturbation=adversarial --attack_steps=1 --regularizer=beta --beta_weight=7".split()
    folder = searched(tmp_path, "--algorithm=pc_darts", *flags)
    assert np.isfinite(records(folder)[-1]["valid_loss"])
    config, space, algorithm = made("--algorithm=fair_darts", *flags, "--epochs=4")
    alone = made("--algorithm=fair_darts")[2]
    arch = {name: jnp.ones(choices.shape) for name, choices in space.cells.items()}
    step, mix = jnp.int32(10), algorithm.relax.derive(arch)
    beta = jd.penalty.beta_decay(space.cells, lambda step: 3.5)(arch, mix, step)[0]
    both = algorithm.penalty(arch, mix, step)[0]
    np.testing.assert_allclose(both, alone.penalty(arch, mix, step)[0] + beta, rtol=1e-6)
    loss, key = (lambda mix: sum(jnp.sum(rows**2) for rows in mix.values())), jax.random.key(0)
    worst = algorithm.perturb(mix, loss, key, step)
    size = 0.03 + (config.epsilon_alpha - 0.03) / 2
    expected = jd.perturb.adversarial(space.cells, lambda step: size, 1)(mix, loss, key, step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), worst, dict(expected))


@pytest.mark.parametrize(
    "loss, of_method",
    [
        ("mixed --lambda_valid=3", lambda s, o: jd.algorithms.milenas(s, o, 3.0)),
        ("neighbourhood", lambda s, o: jd.algorithms.na_darts(s, order=o)),
        ("uphill --radius=0.1", lambda s, o: jd.algorithms.a2m(s, 0.1, order=o)),
    ],
)
@pytest.mark.parametrize("order", [1, 2])
def test_the_loss_of_alpha_is_that_of_its_method(loss, of_method, order):
    """DARTS with the loss of a method is that method; and every method can have another loss."""
    flags = [f"--alpha_loss={loss.split()[0]}", *loss.split()[1:], "--nodes=2"]
    ways = ["--unrolled"] if order == 2 else ["--no_unrolled"]
    _, space, algorithm = made("--dataset=digits", *flags, *ways)

    def objective(params, mix, carry, batch, key):
        value = 0.0
        for rows in mix.values():
            price = jnp.linspace(0, 1, rows.size).reshape(rows.shape)  # no two operations alike
            value += jnp.sum(jnp.tanh(params["w"] * rows * batch * price))
        return value**2, (carry, {})

    def stepped(algorithm):
        search = jd.bilevel_search(objective, algorithm, optax.sgd(0.1), optax.sgd(0.1))
        state = search.init(jax.random.key(0), {"w": jnp.ones(())})
        return jax.jit(search.step)(state, jnp.float32(0.3), jnp.float32(0.7))[0].arch

    expected = stepped(of_method(space, order))
    jax.tree.map(np.testing.assert_array_equal, stepped(algorithm), expected)
    for name in ("gdas", "fair_darts", "idarts"):
        method = [f"--algorithm={name}", "--tau_start=0.5"]
        other = made("--dataset=digits", *flags, *method)[2]
        without = made("--dataset=digits", "--nodes=2", *method)[2]
        changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), stepped(other), stepped(without))
        assert max(jax.tree.leaves(changes)) > 1e-6, name


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--perturbation=random --algorithm=sdarts_adv", "a perturbation of its own; leave"),
        ("--perturbation=random --algorithm=snas", "one step at one mix"),
        ("--perturbation=adversarial --algorithm=gdas", "draws one operation an edge"),
        ("--regularizer=beta --algorithm=beta_darts", "the method has it already"),
        ("--alpha_loss=uphill --algorithm=a2m", "the method has it already"),
        ("--alpha_loss=mixed --algorithm=joint", "the method has one level"),
        ("--alpha_loss=mixed --algorithm=random_sharing", "the method has no alpha"),
        ("--alpha_loss=uphill --algorithm=reinmax", "a second derivative of the draw"),
        ("--alpha_loss=neighbourhood --algorithm=da2s", "the method learns weights of edges too"),
        ("--alpha_loss=neighbourhood --distance=99", "neighbours at distance 99"),
        ("--regularizer=entropy --algorithm=fixed_alpha", "the method has no alpha"),
        ("--cost_weight=2 --algorithm=shapley_nas", "--cost_weight=2.0 .*the method has no alpha"),
        ("--log_cost_weight=2 --algorithm=random_sharing", "leave --log_cost_weight out"),
        ("--temperature_end=0.1 --algorithm=fixed_alpha", "leave --temperature_end out"),
    ],
)
def test_parts_that_do_not_go_together(flags, message):
    with pytest.raises(Stop, match=message) as caught:
        made(*flags.split())
    assert caught.value.code == 2


def test_second_order_of_others_and_what_has_none(tmp_path):
    searched(tmp_path, "--algorithm=milenas", "--unrolled")
    with pytest.raises(Stop, match="--unrolled --algorithm=gdas|--unrolled --algorithm=snas"):
        script.main([*SHORT, "--algorithm=snas", "--unrolled"])


def test_published_settings_hold_for_the_papers_data(tmp_path):
    def parsed(*flags):
        return command_line.parse(list(flags), script.PRESETS, script.CIFAR, "", script.STARTS)

    config = parsed("--dataset=cifar10", "--algorithm=pc_darts")
    assert (config.partial, config.batch_size, config.learning_rate, config.arch_warmup) == (
        4,
        256,
        0.1,
        15,
    )
    assert parsed("--algorithm=pc_darts").batch_size == script.PRESETS["digits"].batch_size
    assert parsed("--algorithm=pc_darts").partial == 4
    assert parsed("--algorithm=lambda_darts").layers == 4
    assert parsed("--dataset=cifar10", "--algorithm=lambda_darts").layers == 8
    assert parsed("--dataset=cifar10", "--algorithm=gdas", "--epochs=7").epochs == 7
    assert "none" not in parsed("--dataset=cifar10", "--algorithm=sdarts_adv").ops
    assert parsed("--dataset=cifar10").unrolled


SOURCES = [
    # AutoDL-Projects, configs/search-opts/GDAS-NASNet-CIFAR.config
    (
        "--algorithm=gdas",
        {"epochs": 250, "batch_size": 256, "weight_decay": 5e-4, "nesterov": True},
    ),
    # AutoDL-Projects, configs/nas-benchmark/algos: DARTS, GDAS and RANDOM, and their scripts
    (
        "--space=nasbench201",
        {"epochs": 50, "batch_size": 64, "weight_decay": 5e-4, "nesterov": True, "layers": 5},
    ),
    (
        "--space=nasbench201 --algorithm=gdas",
        {"epochs": 250, "batch_size": 64, "weight_decay": 5e-4, "nesterov": True, "tau_end": 0.1},
    ),
    (
        "--space=nasbench201 --algorithm=random_sharing",
        {"epochs": 250, "batch_size": 64, "nesterov": True, "num_samples": 100},
    ),
    # Li & Talwalkar 2019
    (
        "--algorithm=random_sharing",
        {"num_samples": 1000, "sample_batches": 10, "num_finalists": 10, "nesterov": False},
    ),
    # SNAS-Series, SNAS/README.md
    (
        "--algorithm=snas",
        {
            "epochs": 150,
            "batch_size": 64,
            "drop_path_start": 0.3,
            "drop_path_prob": 0.3,
            "log_cost_weight": 1.5e-3,
            "tau_start": 1.0,
            "tau_end": 0.03,
        },
    ),
    ("--space=nasbench201 --algorithm=snas", {"drop_path_prob": 0.0, "log_cost_weight": 0.0}),
    ("--space=nasbench1shot1_s1 --algorithm=snas", {"drop_path_prob": 0.0, "log_cost_weight": 0}),
    # Beta-DARTS, nasbench201/train_search.py and sota/cnn/spaces.py
    (
        "--space=nasbench201 --algorithm=beta_darts",
        {
            "epochs": 100,
            "batch_size": 64,
            "weight_decay": 3e-4,
            "nesterov": False,
            "layers": 5,
            "beta_weight": 50.0,
            "arch_learning_rate": 3e-4,
            "arch_weight_decay": 1e-3,
        },
    ),
    ("--algorithm=beta_darts", {"epochs": 50, "batch_size": 64, "unrolled": False}),
    # GAEA, configs/cnn: mode/search_pcdarts, mode/search_nasbench201, search_method and README.md
    (
        "--algorithm=gaea",
        {
            "partial": 4,
            "batch_size": 256,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_optimizer": "sgd",
            "arch_learning_rate": 0.1,
            "arch_weight_decay": 0.0,
            "arch_warmup": 0,
        },
    ),
    (
        "--space=nasbench201 --algorithm=gaea",
        {
            "partial": 1,
            "batch_size": 64,
            "init_channels": 24,
            "epochs": 25,
            "arch_learning_rate": 0.1,
            "weight_decay": 3e-4,
        },
    ),
    # DAAS, cnn/train_search.py and cnn/architect.py: alpha rests in epochs 1 to 7
    (
        "--algorithm=da2s",
        {
            "epochs": 50,
            "batch_size": 64,
            "learning_rate": 0.025,
            "arch_learning_rate": 3e-4,
            "arch_warmup": 7,
            "entropy_weight": 0.1,
        },
    ),
    # PasaLab/oles, train_search.py
    (
        "--algorithm=oles",
        {"epochs": 50, "batch_size": 64, "agreement": 0.4, "agreement_batches": 20},
    ),
    # darts-pt, exp_scripts/blank-201.sh, blank-proj-201.sh, blank-sota.sh
    (
        "--space=nasbench201 --algorithm=fixed_alpha",
        {"epochs": 100, "batch_size": 64, "weight_decay": 3e-4, "derive": "perturbation"},
    ),
    ("--algorithm=fixed_alpha", {"epochs": 50, "batch_size": 64, "tune_steps": None}),
    # Shapley-NAS, train_search.py; its valid_queue has batches of 1,024
    (
        "--algorithm=shapley_nas",
        {
            "epochs": 50,
            "batch_size": 256,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "partial": 4,
            "derive": "shapley",
            "derive_batches": 4,
            "shapley_orders": 10,
        },
    ),
    # Lambda-DARTS, sota/cnn/train_search.py, NAS-Bench201/scripts-search/algos/DARTS-V1.sh
    ("--algorithm=lambda_darts", {"epochs": 50, "batch_size": 64, "alignment_weight": 0.125}),
    (
        "--space=nasbench201 --algorithm=lambda_darts",
        {
            "epochs": 100,
            "alignment_weight": 0.25,
            "arch_learning_rate": 1e-4,
            "weight_decay": 3e-4,
        },
    ),
    ("--space=nasbench201 --algorithm=pc_darts", {"partial": 4, "layers": 5}),
]


@pytest.mark.parametrize("flags, expected", SOURCES)
def test_settings_of_the_sources(flags, expected):
    arguments = ["--dataset=cifar10", *flags.split()]
    config = command_line.parse(arguments, script.PRESETS, script.CIFAR, "", script.STARTS)
    assert {name: getattr(config, name) for name in expected} == expected
    search_flags.check(config)


def test_the_price_of_snas():
    """0.0015 times the logarithm of the expected cost, which at a genotype's own mix is the cost of
    its network.
    """
    flags = ["--dataset=cifar10", "--algorithm=snas"]
    config = command_line.parse(flags, script.PRESETS, script.CIFAR, "", script.STARTS)
    space = methods.space_of(config)
    price = methods.make(config, space, 10, 10, (32, 32, 3)).penalty
    mix = jd.one_hot(space.cells, jd.genotypes.DARTS_V2)
    value, about = price({}, mix, 0)
    np.testing.assert_allclose(about["expected_cost"], 3_349_342, rtol=1e-6)
    np.testing.assert_allclose(value, 1.5e-3 * np.log(3_349_342), rtol=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        "--algorithm=random_sharing --num_samples=3 --num_finalists=2 --sample_batches=1",
        "--algorithm=pc_darts --nesterov --derive=validation --derive_batches=1",
        "--algorithm=lambda_darts",
    ],
)
def test_nasbench201(flags, tmp_path):
    folder = searched(
        tmp_path,
        "--space=nasbench201",
        "--no-unrolled",
        *flags.split(),
        base=["--max_steps=2", "--num_devices=1", FEW_IMAGES],
    )
    genotype = jd.genotypes.from_json((folder / "genotype.json").read_text())
    assert isinstance(genotype, jd.TopologyGenotype) and len(genotype.cell) == 6
    assert {"skip_cell", "parameter_free_cell"} <= set(records(folder)[0])


@pytest.mark.parametrize(
    "flags, line",
    [
        ("--stop_eigenvalue=1.3", "--eigenvalue_freq"),
        ("--stop_size 6", "two numbers"),
        ("--max_skips=-1", "--max_skips=-1"),
        ("--drop_path_prob=1", "must be at least 0 and below 1"),
        ("--train_portion=1.5", "must be above 0 and at most 1"),
        ("--candidates=/nowhere", "--candidates=/nowhere: not the folder"),
        ("--partial=3", "--init_channels=4"),
        ("--fork=/nowhere", "--fork=/nowhere: not the folder"),
        ("--adapt_weight_decay=10", "--keep_checkpoints=0"),
        ("--adapt_weight_decay=10 --num_seeds=2", "--num_seeds=2"),
        ("--space=nasbench201 --max_skips=2", "not in --space=nasbench201"),
        (
            "--space=nasbench1shot1_s1 --algorithm=pc_darts",
            "--partial=4: not in --space=nasbench1shot1_s1",
        ),
        (
            "--space=nasbench1shot1_s2 --derive=perturbation",
            "--derive=perturbation: decides edges, not which two to read",
        ),
        (
            "--space=nasbench1shot1_s3 --cost_weight=1",
            "--cost_weight=1.0: an operation has no price of its own",
        ),
        (
            "--space=nasbench1shot1_s1 --layers=2",
            "--layers=2: --space=nasbench1shot1_s1 has three stages",
        ),
        (
            "--space=nasbench1shot1_s1 --log_cost_weight=1",
            "--log_cost_weight=1.0: an operation has no price of its own",
        ),
        (
            "--space=nasbench1shot1_s1 --algorithm=lambda_darts",
            "--algorithm=lambda_darts: all cells of --space=nasbench1shot1_s1 share one mix",
        ),
        (
            "--space=nasbench201 --algorithm=pc_darts --init_channels=6",
            "partial is 4: it must divide the width, 6",
        ),
        ("--algorithm=lambda_darts", "the network has 0 normal cells: two or more can be aligned"),
        ("--algorithm=na_darts --distance=99", "--algorithm=na_darts"),
        ("--algorithm=darts_minus --ops none sep_conv_3x3", "no skip_connect"),
    ],
)
def test_options_that_cannot_work(flags, line):
    with pytest.raises(Stop) as caught:
        script.main([*SHORT, *flags.split()])
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == 2


def test_whatever_is_recorded_of_an_epoch(tmp_path):
    flags = (
        "--no-unrolled --eigenvalue_freq=1 --cost_weight=1 --cost_target=0.1 --drop_path_prob=0.3"
        " --drop_path_start=0.1 --temperature_end=0.5"
    )
    folder = searched(tmp_path, *flags.split())
    (record,) = records(folder)
    assert np.isfinite(record["eigenvalue"]) and record["valid_expected_cost"] > 1e5
    genotype = jd.genotypes.from_json((folder / "genotype.json").read_text())
    # Without weights in any candidate the mix has no say in the parameters.
    np.testing.assert_allclose(
        record["valid_expected_cost"], jd.network_cost(genotype, 36, 20, 10, (8, 8, 1))[0], rtol=0.5
    )
    assert record["skip_normal"] == record["parameter_free_normal"] == 2
    sizes = json.loads((folder / "sizes.json").read_text())
    assert list(sizes) == ["0,0"] and jd.genotypes.parse(sizes["0,0"]["genotype"])
    assert (
        "the normal cell degenerates: 2 of its 2 operations are skip connections"
        in (folder / "log.txt").read_text()
    )


def test_stops_and_stays_stopped(tmp_path):
    flags = ["--no-unrolled", "--stop_skips=2"]
    folder = searched(tmp_path, *flags, base=TINY)
    assert [record["epoch"] for record in records(folder)] == [0]
    assert (
        "the search stops: epoch 0: the normal cell has 2 skip connections"
        in (folder / "log.txt").read_text()
    )
    before = (folder / "genotype.json").read_text(), records(folder)
    script.main([f"--resume={folder}"])
    assert ((folder / "genotype.json").read_text(), records(folder)) == before


def test_stops_goes_back_and_goes_on_with_more_weight_decay(tmp_path, monkeypatch):
    def soon(epochs, values, start, factor):
        return epochs[0] if len(epochs) > 1 else None

    monkeypatch.setattr(search_results.curvature, "stop_epoch", soon)
    flags = (
        "--no-unrolled --eigenvalue_freq=1 --stop_eigenvalue=1.3 --adapt_weight_decay=10"
        " --keep_checkpoints=0".split()
    )
    first = searched(tmp_path, *flags, base=TINY)
    later = [tmp_path / f"run-decay{decay}" for decay in ("0.003", "0.03")]
    for before, after, decay in zip([first, later[0]], later, [0.003, 0.03], strict=True):
        config = json.loads((after / "config.json").read_text())
        assert config["weight_decay"] == pytest.approx(decay) and config["fork"] == str(before)
        assert records(after)[0] == records(before)[0] and records(after)[1] != records(before)[1]
    assert not (tmp_path / "run-decay0.3").exists()
    assert "the search stops" in (later[0] / "log.txt").read_text()
    assert "the search stops" not in (later[1] / "log.txt").read_text()
    before = [records(folder) for folder in later]
    script.main([f"--resume={first}"])
    assert [records(folder) for folder in later] == before


def test_fork_continues_another_search(tmp_path):
    uncut = searched(tmp_path, "--no-unrolled", "--keep_checkpoints=0", base=TINY)
    fork = tmp_path / "fork"
    cache = f"--cache_dir={jax.config.jax_compilation_cache_dir}"
    script.main(
        [*TINY, "--no-unrolled", f"--fork={uncut}", "--fork_epoch=0", f"--run_dir={fork}", cache]
    )
    a, b = records(uncut), records(fork)
    for record in (*a, *b):
        record.pop("seconds")
    assert a == b and (uncut / "genotype.json").read_text() == (fork / "genotype.json").read_text()
    with pytest.raises(Stop, match="has no checkpoint of step 110, only 22, 44"):
        script.main(
            [
                *TINY,
                "--no-unrolled",
                f"--fork={uncut}",
                "--fork_epoch=4",
                f"--run_dir={tmp_path / 'none'}",
            ]
        )


def test_arch_stands_still_while_the_weights_warm_up(tmp_path):
    folder = searched(tmp_path, "--no-unrolled", "--arch_warmup=1", base=TINY)
    with np.load(folder / "alphas.npz") as saved:
        first, second = saved["reduce"]  # the only cell of a network of one
    assert np.abs(first - 0.5).max() < 2e-3 < np.abs(second - 0.5).max()


def final_state(folder):
    """The state in the newest checkpoint, by names."""
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore())
        return checkpoints.restore(checkpoints.latest_step(), args=restore)["state"]["state"]


def test_a_warm_up_trains_the_weights_of_a_search_whose_alpha_rests(tmp_path):
    """Oracle: a learning rate of zero for alpha, with the whole step."""
    flags = ["--no-unrolled", "--max_steps=6", "--drop_path_prob=0.2"]
    warm = searched(tmp_path / "warm", *flags, "--arch_warmup=1", base=TINY)
    still = [*flags, "--arch_learning_rate=0"]
    rests = searched(tmp_path / "rests", *still, base=TINY)
    warmed, expected = final_state(warm), final_state(rests)
    for part in ("params", "arch"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), warmed[part], expected[part]
        )
    (a,), (b,) = records(warm), records(rests)
    for name in ("train_loss", "valid_loss", "valid_accuracy"):
        assert a[name] == pytest.approx(b[name], abs=1e-4)
    assert a["arch_gradient_norm"] == 0 < b["arch_gradient_norm"]


def test_a_step_of_the_warm_up_does_not_look_at_the_validation_half():
    """So it takes no gradient there, and the compiler leaves out what loads the images."""
    flags = [*TINY, "--no-unrolled", "--arch_warmup=1"]
    config = command_line.parse(flags, script.PRESETS, script.CIFAR, None)
    program = script.build(config, jd.data.images.load("digits"))
    data = jd.parallel.replicate(program.data, program.devices)
    order = program.order(0)

    def arch_and_sums(step, i):
        training = jd.parallel.replicate(program.init(), program.devices)
        training = step(training, data, order.train[:, :, 0], order.val[:, :, i], order.keys)
        return jax.tree.map(np.asarray, (training.state.arch, training.sums))

    warm, same = (arch_and_sums(program.warm_up_step, i) for i in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, warm, same)
    one, other = (arch_and_sums(program.step, i)[1]["valid_loss"] for i in (0, 1))
    assert one != other


OPS = ("none", "skip_connect", "max_pool_3x3")


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """A finished search of two seeds, with two nodes: edges are chosen too."""
    flags = "--no-unrolled --nodes=2 --num_seeds=2 --derive_batches=1 --flatness".split()
    return searched(tmp_path_factory.mktemp("two_seeds"), *flags, "--ops", *OPS)


@pytest.mark.parametrize(
    "way", ["validation", "perturbation --tune_steps=1", "samples --num_samples=3"]
)
def test_a_finished_search_is_derived_anew(way, two_seeds, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two_seeds, folder)
    before = (folder / "seed-2" / "metrics.jsonl").read_bytes()
    script.main([f"--resume={folder}", *f"--derive={way}".split()])
    assert (folder / "seed-2" / "metrics.jsonl").read_bytes() == before
    for seed in (2, 3):
        jd.genotypes.check(
            jd.genotypes.from_json((folder / f"seed-{seed}" / "genotype.json").read_text())
        )
        facts = json.loads((folder / f"seed-{seed}" / "facts.json").read_text())
        assert 0 <= facts["neighbours_minimum_accuracy"] <= facts["neighbours_mean_accuracy"] <= 1
    with pytest.raises(Stop, match="the run has partial=1, not 2"):
        script.main([f"--resume={folder}", "--partial=2"])


def test_tuning_lasts_as_long_and_learns_as_fast_as_that_of_the_authors():
    """DARTS+PT's code: 16 times 5 epochs and one more, from a tenth of the learning rate."""
    flags = ["--dataset=cifar10", "--derive=perturbation"]
    config = command_line.parse(flags, script.PRESETS, script.CIFAR, None, script.STARTS)
    config = dataclasses.replace(config, momentum=0.0, weight_decay=0.0)
    assert search_results.steps_of_tuning(config, 390) == 5 * 390
    tx = image_program.tuning_optimizer(config, jd.spaces.darts(), 2)
    params = {"w": jnp.zeros(2)}
    state, rates = tx.init(params), []
    for _ in range(2 * 81):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        rates.append(-float(updates["w"][0]))
    epochs = np.arange(2 * 81) // 2
    expected = 0.001 + 0.5 * (0.0025 - 0.001) * (1 + np.cos(np.pi * epochs / 81))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    decided = dataclasses.replace(config, tune_steps=0)
    assert search_results.steps_of_tuning(decided, 390) == 0
    assert search_results.steps_of_tuning(dataclasses.replace(config, derive="validation"), 9) == 0


def test_candidates_of_an_earlier_search(tmp_path):
    first = searched(tmp_path, "--no-unrolled", "--ops", *OPS)
    with np.load(first / "alphas.npz") as saved:
        row = saved["normal"][-1][0]
    second = tmp_path / "second"
    script.main(
        [
            *SHORT,
            "--no-unrolled",
            f"--candidates={first}",
            "--keep_ops=2",
            "--max_skips=1",
            f"--run_dir={second}",
        ]
    )
    ops = json.loads((second / "space.json").read_text())["normal"]["ops"]
    assert all(len(edge_ops) == 2 for edge_ops in ops)
    assert ops[0] == [OPS[i] for i in sorted(np.argsort(-row, kind="stable")[:2])]


@pytest.mark.parametrize("name", ["nasbench1shot1_s2", "nasbench201", "s1", "darts_rnn"])
def test_a_saved_space_is_read_as_it_was(name, tmp_path):
    space = getattr(jd.spaces, name)()
    (tmp_path / "space.json").write_text(methods.space_to_json(space))
    run = subjects.Opened(tmp_path, tmp_path, {}, 0, "search", "images")
    assert subjects.space_of(run) == space.cells  # a tuple is no list, so this is for types too


def test_a_narrowed_space_is_read_as_it_was(tmp_path):
    space = jd.spaces.darts(2)
    for keep in (5, 3, 2):  # each narrows the one before
        (tmp_path / "space.json").write_text(methods.space_to_json(space))
        assert methods.cells_from_json(methods.space_to_json(space)) == space.cells
        rng = np.random.default_rng(keep)
        mixes = {cell: rng.random((2, *choices.shape)) for cell, choices in space.cells.items()}
        np.savez(tmp_path / "alphas.npz", **mixes)
        before, space = space, methods.strongest_of(tmp_path, keep)
        for cell, choices in space.cells.items():
            assert choices._replace(ops=()) == before.cells[cell]._replace(ops=())
            for row, edge_ops, old in zip(
                mixes[cell][-1], choices.ops, before.cells[cell].ops, strict=True
            ):
                assert edge_ops == tuple(
                    op for op, weight in zip(old, row) if weight in np.sort(row)[-keep:]
                )


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"normal": []}', '{"normal": {"edges": []}}', '{"normal": {"color": 1}}']
)
def test_what_is_no_saved_space(text, tmp_path):
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(Stop, match="no usable space.json"):
        subjects.space_of(subjects.Opened(tmp_path, tmp_path, {}, 0, "search", "images"))
    with pytest.raises(Stop, match="not the folder of a finished search"):
        methods.strongest_of(tmp_path, 2)


def history_of(**columns):
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    cells = jd.spaces.darts().cells
    return types.SimpleNamespace(
        records=types.SimpleNamespace(all=rows), space=types.SimpleNamespace(cells=cells)
    )


def config_of(**changes):
    default = {
        "stop_skips": 0,
        "stop_size": (),
        "stop_eigenvalue": 0.0,
        "stop_start": 10,
        "eigenvalue_freq": 2,
        "adapt_weight_decay": 0.0,
        "weight_decay": 3e-4,
    }
    return types.SimpleNamespace(**default | changes)


def test_reasons_to_stop():
    epochs = list(range(5))
    free = {"parameter_free_normal": [0, 1, 2, 2, 3], "parameter_free_reduce": [4, 6, 6, 8, 8]}
    history = history_of(epoch=epochs, skip_normal=[0, 1, 2, 3, 3], **free)
    assert search_results.stop_of(config_of(), history) is None
    assert search_results.stop_of(config_of(stop_skips=3), history)[0] == 3
    assert search_results.stop_of(config_of(stop_size=(6, 0)), history)[0] == 3  # MiLeNAS' (6, 0)
    assert search_results.stop_of(config_of(stop_size=(1, 0)), history) is None
    assert (
        search_results.stopped(
            config_of(stop_skips=3),
            [history, history_of(epoch=[0], skip_normal=[1], **{k: [0] for k in free})],
        )
        is None
    )


def test_stop_by_eigenvalue_goes_back():
    """One value every second epoch that doubles from epoch 20 on; the averages see it late, and the
    search returns early.
    """
    epochs = list(range(0, 50))
    values = [(0.1 if e < 20 else 0.2) if e % 2 == 0 else None for e in epochs]
    none = [0] * len(epochs)
    history = history_of(
        epoch=epochs,
        skip_normal=none,
        parameter_free_normal=none,
        parameter_free_reduce=none,
        eigenvalue=values,
    )
    back, why = search_results.stop_of(config_of(stop_eigenvalue=1.3), history)
    assert back == jd.analysis.curvature.stop_epoch(epochs[::2], values[::2]) == 10
    assert "back to epoch 10" in why
    # DARTS-ADA's last round, the one with the largest weight decay, runs to its end.
    for weight_decay, stops in ((3e-4, True), (3e-3, True), (0.03, False)):
        config = config_of(stop_eigenvalue=1.3, adapt_weight_decay=10.0, weight_decay=weight_decay)
        assert bool(search_results.stop_of(config, history)) == stops
