"""Values of cells. Oracles: networks and scores put together by hand, the training script."""

import dataclasses
import json
import math
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.commands.discrete import command as script
from jaxdarts.commands.discrete import evaluators, scoring
from jaxdarts.commands.discrete.evaluators import Options
from jaxdarts.commands.evaluate import images as training
from jaxdarts.commands.evaluate import recipes
from jaxdarts.commands.search import images as image_search
from jaxdarts.data import augment, images
from jaxdarts.runs import Stop

CELL = jd.genotypes.parse(
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
)
OTHER = jd.genotypes.parse(
    "|nor_conv_1x1~0|+|none~0|nor_conv_3x3~1|+|nor_conv_3x3~0|skip_connect~1|none~2|"
)
SMALL = {"dataset": "digits", "layers": 1, "init_channels": 2}


@pytest.fixture
def cache():
    """The suite's."""
    return jax.config.jax_compilation_cache_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of a toy space, with two seeds."""
    folder = tmp_path_factory.mktemp("search") / "run"
    tiny = (
        "--layers=1 --nodes=1 --ops none skip_connect avg_pool_3x3 --init_channels=2 --no-unrolled"
        " --epochs=1 --num_seeds=2"
    )
    before = jax.config.jax_compilation_cache_dir
    image_search.main(
        [*tiny.split(), "--num_devices=1", f"--run_dir={folder}", f"--cache_dir={before}"]
    )
    jax.config.update("jax_compilation_cache_dir", before)
    return folder


def test_a_trained_supernet(run):
    options = Options(evaluate="supernet", space="darts", dataset="digits", run=str(run), batches=3)
    space = evaluators.space_of(options)
    assert space.cells["normal"].shape == (2, 3)  # the run's own
    genotype = space.sample(jax.random.key(0))
    trial = evaluators.trial(options, genotype)
    dataset = images.load("digits")
    _, val = images.split(dataset.train, 0.5)
    net = space.supernet(width=2, depth=1, num_classes=10)
    apply = jax.jit(net.apply)
    with jd.runs.checkpoint.open_folder(run / "checkpoints") as checkpoints:
        like = runs.checkpoint_form(image_search.build(evaluators.searched(options), dataset).init)
        params = jd.runs.checkpoint.restore(checkpoints, like, None)["state"].params
    right = []
    for seed in range(2):
        for i in range(3):
            batch = slice(32 * i, 32 * i + 32)
            seed_params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
            pixels = augment.normalize(jnp.asarray(val.images[batch]), dataset.mean, dataset.std)
            logits = apply(
                {"params": seed_params},
                pixels,
                jd.one_hot(space.cells, genotype),
                jax.random.key(0),
            )
            right.append(np.argmax(logits, axis=1) == val.labels[batch])
    assert trial.value == pytest.approx(100 * np.mean(right), abs=1e-4)
    assert trial.genotype == genotype and math.isnan(trial.final) and trial.seconds > 0
    for changes, message in (
        ({"space": "nasbench201"}, "--space=nasbench201: the supernet of .* has --space=darts"),
        ({"dataset": "mnist"}, "--dataset=mnist: the supernet of .* has --dataset=digits"),
    ):
        with pytest.raises(Stop, match=message):
            evaluators.check(dataclasses.replace(options, **changes))


def test_a_score_of_untrained_networks(cache, monkeypatch):
    traced = []

    def score(apply, params, batch):
        traced.append(batch["image"].shape)
        return jnp.log(jnp.var(apply(params, batch["image"])[:, 0])) + jnp.mean(batch["label"])

    monkeypatch.setitem(scoring.SCORES, "naswot", score)
    options = Options(
        evaluate="proxy", score="naswot", batch_size=6, seed=3, cache_dir=cache, **SMALL
    )
    nothing = jd.genotypes.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    values = [evaluators.trial(options, genotype).value for genotype in (CELL, OTHER, nothing)]
    assert traced == [(6, 8, 8, 1)]  # one program for all cells
    dataset, space = images.load("digits"), jd.spaces.nasbench201()
    indices = np.random.default_rng(3).choice(1437, 6, replace=False)
    pixels = augment.normalize(
        jnp.asarray(dataset.train.images[indices]), dataset.mean, dataset.std
    )
    net = space.supernet(width=2, depth=1, num_classes=10)
    params = net.init(jax.random.key(3), pixels[:1], net.example_mix())
    apply = jax.jit(net.apply)
    for genotype, value in zip((CELL, OTHER), values[:2], strict=True):
        logits = apply(params, pixels, jd.one_hot(space.cells, genotype))
        expected = np.log(np.var(logits[:, 0])) + np.mean(dataset.train.labels[indices])
        assert value == pytest.approx(float(expected), rel=1e-4)
    assert values[0] != values[1] and math.isnan(
        values[2]
    )  # where all images look alike: the logarithm of zero


def test_ranks_among_reference_cells():
    reference = np.array([3.0, 1, 2, 2, np.nan])
    ranks = [scoring.rank_among(reference, value) for value in (np.nan, 0, 1, 2, 2.5, 3)]
    assert ranks == [0, 1, 1.5, 3, 4, 4.5]
    # Above all: the larger the better, by less than one.
    above = [scoring.rank_among(reference, value) for value in (3.1, 4, 1e9)]
    assert 5 < above[0] < above[1] < above[2] <= 6
    assert scoring.rank_among(np.full(3, np.nan), 1.0) == 3
    assert 2 < scoring.rank_among(np.array([1.0, 1]), 2) <= 3


def params_of_a_cell(name):
    """A score that is cheap: how many of the cell's outputs are positive, by another number."""

    def score(apply, params, batch):
        logits = apply(params, batch["image"])
        return jnp.sum(logits[:, :5]) if name == "snip" else -jnp.sum(jnp.abs(logits[:, 5:]))

    return score


def test_a_sum_of_ranks_guides_a_search_and_leaves_its_best_cells(cache, tmp_path, monkeypatch):
    for name in ("snip", "plain"):
        monkeypatch.setitem(scoring.SCORES, name, params_of_a_cell(name))
    sizes = "--layers=1 --init_channels=2 --batch_size=6 --dataset=digits --reference=5"
    flags = f"--evaluate=proxy --score=snip+plain {sizes} --cache_dir={cache}".split()
    budget = ["--algorithm=rea", "--population=3", "--budget_evaluations=6", "--top=3"]
    script.main([*flags, *budget, f"--run_dir={tmp_path / 'run'}"])
    records = jd.files.read_json_lines(tmp_path / "run" / "history.jsonl")
    options = Options(
        evaluate="proxy", batch_size=6, score="snip+plain", reference=5, cache_dir=cache, **SMALL
    )
    space = evaluators.SPACES["nasbench201"]
    single = scoring.scores_of(options, space)
    key = jax.random.fold_in(jax.random.key(0), 1)
    cells = [space.sample(jax.random.fold_in(key, i)) for i in range(5)]
    for record in records:
        cell = jd.genotypes.parse(record["genotype"])
        expected = 0
        for value in single.values():
            others = sorted(value(other) for other in cells)
            expected += sum(other < value(cell) for other in others)
            expected += sum(other == value(cell) for other in others) / 2
        assert 0 <= record["value"] - expected <= 2  # cells above all others
    # The best different cells, from which jaxdarts evaluate --select chooses.
    best = sorted((tmp_path / "run" / "best").iterdir())
    assert [path.name for path in best] == ["01.json", "02.json", "03.json"]
    read = [str(recipes.resolve(str(path))) for path in best]
    values = {record["genotype"]: record["value"] for record in records}
    assert [values[cell] for cell in read] == sorted(values.values(), reverse=True)[:3]


def test_area_scores_its_pool_by_a_program_here(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(scoring.SCORES, "snip", params_of_a_cell("snip"))
    sizes = "--layers=1 --init_channels=2 --batch_size=6 --dataset=digits"
    area = "--algorithm=area --pool=6 --population=2 --sample_size=2 --score=snip"
    command = f"--evaluate_command={shlex.join([sys.executable, '-SE', '-c', 'print(1)'])}"
    start = f"--evaluate=command --budget_evaluations=3 {area} {sizes} --cache_dir={cache}"
    flags = [*start.split(), command]
    script.main([*flags, f"--run_dir={tmp_path / 'run'}"])
    records = jd.files.read_json_lines(tmp_path / "run" / "history.jsonl")
    options = Options(evaluate="proxy", batch_size=6, score="snip", cache_dir=cache, **SMALL)
    score = scoring.score_of(options, evaluators.SPACES["nasbench201"])
    first = [score(jd.genotypes.parse(record["genotype"])) for record in records[:2]]
    space = evaluators.SPACES["nasbench201"]
    assert first == sorted(first, reverse=True)
    drawn = [score(space.sample(jax.random.key(seed))) for seed in range(30)]
    assert min(first) > np.median(drawn)  # the best two of six


def test_a_short_training_is_that_of_the_script(cache, tmp_path):
    options = Options(evaluate="training", epochs=2, batch_size=96, cache_dir=cache, **SMALL)
    cell = jd.genotypes.parse(
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    )
    trial = evaluators.trial(options, cell, 1)
    assert trial.epochs == 1 and trial.seconds > 0
    dataset = images.load("digits")
    fit, held = images.split(dataset.train, 0.5)
    part, config = (
        dataset._replace(train=fit, test=held),
        recipes.presets_of(type(cell))[0]["digits"],
    )
    config = dataclasses.replace(
        config, epochs=1, batch_size=96, layers=1, init_channels=2, run_dir=str(tmp_path / "run")
    )
    with runs.open_run(config, "eval") as opened:
        expected = training.train(
            config, cell, part, training.build(config, cell, part), opened, "valid"
        )
    assert trial.value == pytest.approx(100 * float(expected["accuracy"][0]))


def test_the_script_scores_resumes_and_hands_over(cache, tmp_path):
    sizes = "--layers=1 --init_channels=2 --batch_size=6"
    flags = (
        f"--evaluate=proxy --dataset=digits {sizes} --algorithm=random --budget_evaluations=6"
        f" --cache_dir={cache}"
    )
    script.main([*flags.split(), f"--run_dir={tmp_path}"])
    history = tmp_path / "history.jsonl"
    text = history.read_text(encoding="utf-8")
    records = jd.files.read_json_lines(history)
    assert len(records) == 6 and all(
        record["final"] is None and record["seconds"] > 0 for record in records
    )
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["config"]["score"] == "naswot" and summary["config"]["runs"] == 1
    best = max(records, key=lambda record: record["value"])
    assert (
        summary["value"] == {"mean": best["value"], "deviation": None}
        and summary["best_genotype"] == best["genotype"]
    )
    assert str(recipes.resolve(str(tmp_path))) == best["genotype"]
    # Killed in a line: the trials before it stay as they were, their seconds too.
    history.write_text(text[: text.index('"step": 4') + 20], encoding="utf-8")
    script.main([f"--resume={tmp_path}"])
    again = jd.files.read_json_lines(history)
    assert again[:4] == records[:4]
    assert [record["genotype"] for record in again] == [record["genotype"] for record in records]
    history.write_text(text.replace(records[2]["genotype"], str(CELL)), encoding="utf-8")
    with pytest.raises(
        Stop, match="run 0: trial 2 of the records is not what the algorithm proposes"
    ):
        script.main([f"--resume={tmp_path}"])
    token = text.replace("nor_conv_3x3~0", "nor_conv_9x9~0", 1)
    history.write_text(token, encoding="utf-8")
    with pytest.raises(
        Stop,
        match=r"'nor_conv_9x9', 0\): unknown operation .*; remove .*history.jsonl to start again",
    ):
        script.main([f"--resume={tmp_path}"])
