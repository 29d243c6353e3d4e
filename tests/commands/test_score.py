"""The script that scores many cells: its file, resume, correlations, bad input; and the searches
that read the file.
"""

import csv
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdarts import spaces
from jaxdarts.commands import score as script
from jaxdarts.commands import score_definitions, score_summary
from jaxdarts.commands.discrete import command as discrete_command
from jaxdarts.genotypes import TOPOLOGY_OPS, TopologyGenotype
from jaxdarts.runs import Stop

TINY = ["--batch_size=6", "--init_channels=2", "--layers=1", "--cache_dir="]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """All cells, better the more convolutions they have."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = [
        "arch_str,cifar10_valid_12,cifar10_valid_200,cifar10_test_200,train_seconds_200,"
        "cifar100_test_200"
    ]
    for ops in itertools.product(TOPOLOGY_OPS, repeat=6):
        value = 60 + 4 * sum(op.startswith("nor") for op in ops) + ops.count("skip_connect")
        cell = TopologyGenotype(tuple(zip(ops, (0, 0, 1, 0, 1, 2))))
        other = 50 + 5 * ops.count("avg_pool_3x3") - ops.count("none")
        lines.append(f"{cell},{value},{value + 1},{value + 2},500,{other}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*flags):
    script.main([*map(str, flags)])


def summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_file_resume_and_correlations(table, tmp_path, capsys):
    flags, folder = ["--scores=naswot", *TINY, f"--table={table}"], tmp_path / "run"
    run(*flags, "--count=3", f"--run_dir={folder}", f"--output={tmp_path / 'rows.json'}")
    assert "naswot: compiled in" in capsys.readouterr().out
    path = folder / "scores.csv"
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "arch_str,naswot" and len(text.splitlines()) == 4
    # Killed within a line, and asked for more cells: the scores of a cell do not depend on how it
    # came to them.
    path.write_text(text[:-9], encoding="utf-8")
    run(f"--resume={folder}", "--count=5", "--table_columns=cifar100_test_200")
    resumed_text = path.read_text(encoding="utf-8")
    assert resumed_text.startswith(text) and len(resumed_text.splitlines()) == 6
    rows = list(csv.DictReader(resumed_text.splitlines()))
    of_table = {
        row["arch_str"]: row
        for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    }
    score_by_cell = {cell: float(row["cifar10_valid_200"]) for cell, row in of_table.items()}
    scores, accuracies = (
        [float(row["naswot"]) for row in rows],
        [score_by_cell[row["arch_str"]] for row in rows],
    )
    result = summary(folder)
    assert result["correlations"]["naswot"]["kendall_valid"] == pytest.approx(
        scipy.stats.kendalltau(scores, accuracies)[0]
    )
    assert result["correlations"]["naswot"]["published"]["value"] == 0.574
    # A column of the table: beside the accuracies, and as one more score.
    column = [float(of_table[row["arch_str"]]["cifar100_test_200"]) for row in rows]
    for name, key, pair in (
        ("naswot", "kendall_table_cifar100_test_200", (scores, column)),
        ("table_cifar100_test_200", "kendall_valid", (column, accuracies)),
    ):
        expected = scipy.stats.kendalltau(*pair)[0]
        assert result["correlations"][name][key] == pytest.approx(expected)
    assert (
        "kendall_table_cifar100_test_200" not in result["correlations"]["table_cifar100_test_200"]
    )
    assert result["speed"]["naswot"]["cells"] == 3  # in this process
    assert {"parameters", "multiply_adds"} < set(result["correlations"])
    assert (folder / "naswot.svg").read_text(encoding="utf-8").startswith("<svg")
    [row] = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert row["cells"] == 5
    # A search draws among the cells that are scored.
    best = [
        "--algorithm=best_of",
        "--candidates=4",
        "--runs=2",
        "--score=naswot",
        f"--scores={path}",
        f"--table={table}",
    ]
    with pytest.raises(
        Stop, match="run 0: the scores have 5 cells, .* --scored_only draws among those"
    ):
        discrete_command.main([*best, f"--run_dir={tmp_path / 'search'}"])
    discrete_command.main([*best, "--scored_only", f"--run_dir={tmp_path / 'among'}"])
    assert summary(tmp_path / "among")["best_genotype"] in {row["arch_str"] for row in rows}
    path.write_text(resumed_text.replace("naswot", "snip", 1), encoding="utf-8")
    with pytest.raises(Stop, match="the columns are arch_str, snip, not arch_str, naswot"):
        run(f"--resume={folder}")


def test_sums_of_ranks_and_other_data_sets(table, tmp_path, capsys, monkeypatch):
    """Oracles: SciPy's ranks of the columns of scores.csv, and the table. The scores are numbers of
    the cell and the key alone.
    """

    def random(count):
        def of(net, picks, params, batch, key):
            noise = jax.random.normal(key, (count,))
            return tuple(noise + jnp.sum(picks)) if count > 1 else 900 + noise[0]

        return of

    for name, count in (("swap", 1), ("az_nas", 3)):
        cheap = score_definitions.SCORES[name]._replace(of=random(count))
        monkeypatch.setitem(score_definitions.SCORES, name, cheap)
    folder = tmp_path / "run"
    run(
        "--scores=swap,az_nas",
        "--count=5",
        "--repeats=2",
        *TINY,
        f"--table={table}",
        "--rank_sums=swap+parameters,swap_regularised+expressivity",
        "--log_rank_sums=az_nas+swap",
        "--swap_mu=1",
        "--swap_sigma=9",
        f"--run_dir={folder}",
    )
    columns: dict[str, list] = {}
    for name in ("scores.csv", "combined.csv"):
        for row in csv.DictReader((folder / name).read_text(encoding="utf-8").splitlines()):
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
    cells = columns.pop("arch_str")[:5]
    columns = {key: np.array(values, float) for key, values in columns.items()}
    ranks = {
        key: scipy.stats.rankdata(np.where(np.isfinite(values), values, -np.inf)) / 5
        for key, values in columns.items()
    }
    parts = ["expressivity", "progressivity", "trainability", "multiply_adds"]
    az_nas = sum(np.log(ranks[part]) for part in parts)
    expected = {
        "az_nas": az_nas,
        "log ranks of az_nas+swap": az_nas + np.log(ranks["swap"]),
        "ranks of swap+parameters": ranks["swap"] + ranks["parameters"],
        "ranks of swap_regularised+expressivity": ranks["swap_regularised"] + ranks["expressivity"],
        "swap_regularised": columns["swap"] * np.exp(-((columns["parameters"] / 1e3 - 1) ** 2) / 9),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-5, err_msg=name)
    rows = csv.DictReader(table.read_text().splitlines())
    accuracy = {row["arch_str"]: float(row["cifar100_test_200"]) for row in rows}
    result = summary(folder)["correlations"]
    assert result["az_nas"]["kendall_test_cifar100"] == pytest.approx(
        scipy.stats.kendalltau(az_nas, [accuracy[cell] for cell in cells])[0]
    )
    assert set(columns) == set(result)
    assert result["swap"]["milliseconds_a_cell"] > 0
    assert "az_nas: kendall_valid" in capsys.readouterr().out


@pytest.mark.parametrize("name, count", [("az_nas", 3), ("zico", 1), ("gradsign_mean", 1)])
def test_a_score_gives_its_columns(name, count):
    """Traced, not compiled."""
    score, space = score_definitions.SCORES[name], spaces.nasbench201()
    net = score_definitions.Net(space.cells, 2, 1, num_classes=2)
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}

    def program(key):
        params = net.init(key, *net.example_inputs((8, 8, 1)))
        return score.of(net, jnp.ones(6, jnp.int32), params, batch, key)

    leaves = jax.tree.leaves(jax.eval_shape(program, jax.random.key(0)))
    assert len(leaves) == len(score_definitions.columns([name])) == count


def test_what_is_not_finite_ranks_last_and_is_counted():
    accuracy = np.array([1.0, 2, 3, 4, 5])
    result = score_summary.correlations(
        np.array([np.nan, -np.inf, 1, 2, np.inf]), {"valid": accuracy}
    )
    expected = [0, 0, 1, 2, 0]
    assert result["not_finite"] == 3
    assert result["kendall_valid"] == pytest.approx(scipy.stats.kendalltau(expected, accuracy)[0])
    assert result["spearman_valid"] == pytest.approx(scipy.stats.spearmanr(expected, accuracy)[0])
    assert (
        score_summary.correlations(np.full(5, np.nan), {"valid": accuracy})["kendall_valid"] is None
    )
    known = score_summary.correlations(accuracy, {"table_a": np.array([3, np.nan, 2, 1, 9])})
    assert known["kendall_table_a"] == pytest.approx(
        scipy.stats.kendalltau([1, 3, 4, 5], [3, 2, 1, 9])[0]
    )


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            "--rank_sums=naswot+snip",
            "naswot+snip needs snip, which --scores does not ask for; there are naswot, parameters",
        ),
        ("--log_rank_sums=az_nas", "az_nas needs expressivity, which --scores does not ask for"),
        ("--rank_sums=naswot+", "naswot+ needs a name, which --scores does not ask for"),
        ("--rank_sums=naswot+naswot", "naswot+naswot has naswot twice"),
        (
            "--scores=az_nas --log_rank_sums=az_nas+multiply_adds",
            "az_nas+multiply_adds has multiply_adds twice",
        ),
        ("--rank_sums=swap_regularised", "swap_regularised needs swap_regularised, which"),
        ("--swap_mu=1", "the regularised SWAP needs both"),
        ("--swap_mu=1 --swap_sigma=2", "--swap_mu=1.0: --scores does not ask for swap"),
        ("--batch_size=-1", "--batch_size=-1: must not be negative"),
        ("--scores=zico --batch_size=719", "has 1437 images to train with, zico takes 1438"),
        ("--scores=foo", "there is no 'foo', there are naswot"),
        ("--scores=snip,snip", "one is named twice"),
        ("--space=darts", "invalid choice 'darts' for argument '--space'"),
        ("--count=0", "--count=0: must be positive"),
        ("--count=15626", "the space has 15625 cells"),
        ("--batch_size=5000", "digits has 1437 images"),
        ("--seed=-1", "--seed=-1: must not be negative"),
        ("--table=nowhere.csv", "--table=nowhere.csv: No such file"),
        ("--table_columns=a", "--table_columns=a: say which --table has them"),
        ("--dataset=npz:nowhere", "no such file"),
    ],
)
def test_bad_input_takes_one_line(flags, message, tmp_path):
    with pytest.raises(Stop) as caught:
        run(*flags.split(), f"--run_dir={tmp_path / 'run'}", "--cache_dir=")
    assert message in str(caught.value) and caught.value.code == 2 or "no such file" in message
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "scores.csv").exists()


def test_a_cell_without_accuracy_and_images_that_do_not_halve(table, tmp_path):
    images = np.zeros((6, 6, 6, 1), np.uint8)
    np.savez(
        tmp_path / "six.npz",
        images_train=images,
        labels_train=np.arange(6) % 2,
        images_test=images,
        labels_test=[0] * 6,
    )
    with pytest.raises(Stop, match="--scores=naswot: .* height and width that 4 divides"):
        run(f"--dataset=npz:{tmp_path / 'six.npz'}", *TINY, f"--run_dir={tmp_path / 'run'}")
