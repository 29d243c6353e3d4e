"""jaxdarts measure, and tables of latencies. Oracles: a clock that only our loops move, sums by
hand.
"""

import dataclasses
import json
import os
import types

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import limits
from jaxdarts.commands import latencies, measure, methods, timing
from jaxdarts.commands.search import images
from jaxdarts.nn import latency
from jaxdarts.runs import Stop
from tests.test_limits import mixes

SHAPE = (8, 8, 1)
CONFIG = types.SimpleNamespace(
    dataset="digits", space="darts", trained_channels=4, trained_layers=3, latency_table=None
)


def space():
    return jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3"))


def content_of(searched, width, depth, shape):
    """A table of times that are no two alike, as jaxdarts measure writes it."""
    uses = latency.uses(searched.cells, width, depth, 10, shape)
    parts = dict.fromkeys(use.part for use in uses)
    rows = [
        latencies.Row(**part._asdict(), milliseconds=0.01 * (i + 1) ** 2)
        for i, part in enumerate(parts)
    ]
    return latencies.Table(
        device="cpu: test",
        space="darts",
        width=width,
        depth=depth,
        image_shape=shape,
        num_classes=10,
        imagenet=False,
        batch_size=1,
        scale=1.0,
        parts=rows,
    )


@pytest.fixture
def table(tmp_path):
    """A file with a table, and what is in it."""
    path, content = tmp_path / "latency.json", content_of(space(), 4, 3, SHAPE)
    path.write_text(json.dumps(content))
    return path, content


def given(path, **changes):
    return types.SimpleNamespace(**vars(CONFIG) | {"latency_table": str(path)} | changes)


# Times


class Clock:
    """A clock that stands still unless something that is timed moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def copied(self, seconds: float, of_call: float, number: int):
        def call() -> None:
            self.now += of_call + number * seconds

        return call


def test_what_a_call_takes_is_no_part_of_the_time_of_a_part():
    clock, times = Clock(), [3e-6, 2e-3, 0.5]
    parts = [(seconds, 0.02 + seconds**2) for seconds in times]
    seconds = timing.seconds_of_parts(parts, 4, clock, clock.copied)
    np.testing.assert_allclose(seconds, np.tile(times, (4, 1)), rtol=1e-6)


def test_calls_are_timed_in_turns_and_warmed_up():
    clock, order = Clock(), []

    def call(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds

        return run

    seconds = timing.seconds_of_calls([call("a", 1.0), call("b", 2.0)], 2, clock)
    np.testing.assert_allclose(seconds, [[1, 2], [1, 2]])
    assert "".join(order) == "ab" + "aabb" * 2


def test_copies_are_added_up():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    call = timing.copied(lambda x, y: x + y["y"], [jax.numpy.asarray(x), {"y": np.ones((1, 3))}], 3)
    np.testing.assert_allclose(call(), 3 * (x + 1))


def test_cores_and_threads_are_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "7")
    cores = os.sched_getaffinity(0)
    with timing.on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1 and os.environ["PJRT_NPROC"] == "1"
    assert os.sched_getaffinity(0) == cores and os.environ["PJRT_NPROC"] == "7"
    with pytest.raises(ValueError, match=f"this process has {len(cores)} of the machine's cores"):
        with timing.on_cores(len(cores) + 1):
            pass


# Tables


def test_the_latency_of_a_cell_is_the_sum_of_the_table(table):
    path, content = table
    costs = latencies.costs(given(path), space(), 10, SHAPE)
    cell = space().sample(jax.random.key(3))
    milliseconds = {latencies.part_of(row): row["milliseconds"] for row in content["parts"]}
    mix = jd.space.one_hot(space().cells, cell)
    total = 0.0
    for part, place, times in latency.uses(space().cells, 4, 3, 10, SHAPE):
        chosen = place is None or mix[place[0]][place[1:]] > 0
        total += times * milliseconds[part] if chosen else 0
    assert latencies.of_genotype(costs, space(), cell) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"space": "s1"}, "measured for --space=darts, .* has --space=s1; jaxdarts measure --sp"),
        ({"trained_channels": 8}, "for --init_channels=4, .* trained has --init_channels=8"),
        ({"trained_layers": 5}, "for --layers=3, and .* --layers=5; .* --image_size 8 meas"),
        ({"dataset": "imagenet2012"}, "--no_imagenet, and .* has --imagenet; .* --imagenet"),
    ],
)
def test_a_table_of_another_network_is_refused(table, changes, message):
    with pytest.raises(Stop, match=message):
        latencies.costs(given(table[0], **changes), space(), 10, SHAPE)


def test_a_table_of_other_images_or_operations_is_refused(table):
    with pytest.raises(
        Stop, match="images of 8x8x1, .* has images of 16x8x3.*--image_size 16 8 meas"
    ):
        latencies.costs(given(table[0]), space(), 10, (16, 8, 3))
    with pytest.raises(Stop, match="--num_classes=10, .* --num_classes=3"):
        latencies.costs(given(table[0]), space(), 3, SHAPE)
    with pytest.raises(Stop, match="--space=nasbench201: a space of the cells cell: latencies are"):
        latencies.costs(given(table[0], space="nasbench201"), jd.spaces.nasbench201(), 10, SHAPE)
    other = jd.spaces.darts(2, ("none", "skip_connect", "dil_conv_3x3"))
    with pytest.raises(Stop, match="has no time of dil_conv_3x3 at 8x8x4; measure it with the"):
        latencies.costs(given(table[0]), other, 10, SHAPE)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda content: "[", "is not JSON"),
        (lambda content: json.dumps(content | {"width": "4"}), "width is '4', not an integer"),
        (lambda content: json.dumps({"parts": []}), "is missing; jaxdarts measure writes it"),
        (lambda content: json.dumps(content | {"scale": 0}), "scale is 0, no positive number"),
        (
            lambda content: json.dumps(
                content | {"parts": [content["parts"][0] | {"milliseconds": -1.0}]}
            ),
            r"parts\[0\].milliseconds is -1.0, no time",
        ),
        (
            lambda content: json.dumps(
                content | {"parts": [content["parts"][0] | {"milliseconds": float("nan")}]}
            ),
            r"parts\[0\].milliseconds is nan, no time",
        ),
    ],
)
def test_a_damaged_table_is_one_line(table, damage, message):
    path, content = table
    path.write_text(damage(content))
    with pytest.raises(Stop, match=f"--latency_table={path}: .*{message}"):
        latencies.read(str(path))
    with pytest.raises(Stop, match="--latency_table=nowhere.json: .*No such file"):
        latencies.read("nowhere.json")


def test_random_limits_are_kept_or_said_to_be_missed(table):
    """Latency alone, and with both counts."""
    sizes, rng = (4, 3, 10, SHAPE), np.random.default_rng(0)
    both = space().costs(*sizes)
    costs = latencies.costs(given(table[0]), space(), 10, SHAPE)
    mix, missed = mixes(space(), 0), 0
    least = limits.least(space().cells, costs) / latencies.NANOSECONDS
    for i, limit in enumerate(rng.uniform(0.8 * least, 4 * least, 20)):
        every = [costs, *both] if i % 2 else [costs]
        most = [latencies.NANOSECONDS * limit, 3000.0, 2e5]
        try:
            best = limits.under_limits(space().cells, mix, every, most[: len(every)])
        except ValueError as error:
            assert "the cheapest costs" in str(error)
            missed += 1
            continue
        cell = space().discretize(best)
        assert latencies.of_genotype(costs, space(), cell) <= limit
        if i % 2:
            params, adds = jd.network_cost(cell, *sizes)
            assert params <= 3000 and adds <= 2e5
    assert 0 < missed < 20


def test_a_price_of_latency_is_in_milliseconds_of_the_network_that_is_trained(table):
    path, content = table
    path.write_text(json.dumps(content | content_of(space(), 8, 3, SHAPE)))
    words = "--cost_of=latency --cost_weight=2 --cost_target=0.5 --ops none skip_connect".split()
    config = images.parse([*words, "sep_conv_3x3", f"--latency_table={path}"])  # of digits: 8, 3
    images.check(config)
    algorithm = methods.make(config, space(), 5, 10, SHAPE)
    costs = latencies.costs(config, space(), 10, SHAPE)
    cell = space().sample(jax.random.key(0))
    milliseconds = latencies.of_genotype(costs, space(), cell)
    price, about = algorithm.penalty({}, jd.space.one_hot(space().cells, cell), 0)
    assert float(price) == pytest.approx(2 * (milliseconds / 0.5 - 1), rel=1e-5)
    assert milliseconds > 0.5
    assert float(about["expected_cost"]) == pytest.approx(1e6 * milliseconds, rel=1e-5)


@pytest.mark.parametrize(
    "line, message",
    [
        ("--max_latency_ms=1", "--max_latency_ms=1.0: needs --latency_table, the file"),
        ("--cost_of=latency --cost_weight=1", "--cost_of=latency: needs --latency_table"),
        ("--cost_of=latency", "--cost_of=latency: only with --cost_weight or --log_cost_weight"),
        ("--latency_table=x.json", "--latency_table=x.json: only with --max_latency_ms, --front"),
        ("--front=2 --derive=samples", "--front=2 --derive=samples: a limit needs the strengths"),
    ],
)
def test_flags_of_limits_that_cannot_work(line, message):
    with pytest.raises(Stop, match=message):
        images.check(images.parse(line.split()))


def test_a_search_with_a_price_keeps_its_table(table, tmp_path):
    config = images.parse(["--cost_of=latency", "--cost_weight=1", "--latency_table=old.json"])
    folder = tmp_path / "run"
    folder.mkdir()
    saved = {"command": "search", "kind": "images", **dataclasses.asdict(config)}
    (folder / "config.json").write_text(json.dumps(saved))
    resumed = images.parse([f"--resume={folder}", "--latency_table=new.json"])
    with pytest.raises(Stop, match="alpha was trained with --latency_table=old.json; leave"):
        images.check(resumed)
    images.check(images.parse([f"--resume={folder}", "--max_latency_ms=3"]))


def test_agreement():
    measured = np.array([1.0, 2.0, 3.0, 4.0])
    scale, found = latencies.agreement(1.1 * measured, measured, -measured)
    assert scale == pytest.approx(1 / 1.1)
    assert found["spearman"] == found["kendall"] == pytest.approx(1)
    assert found["spearman_of_multiply_adds"] == pytest.approx(-1)
    assert found["mean_error_of_sums"] == pytest.approx(0.1)
    assert found["mean_error"] == pytest.approx(0, abs=1e-9)
    assert latencies.agreement(*[measured[:2]] * 3)[1]["pearson"] is None
    assert latencies.agreement(measured, np.ones(4), measured)[1]["spearman"] is None


def test_the_scale_of_a_table_is_that_of_all_its_costs(table):
    path, content = table
    plain = latencies.costs(given(path), space(), 10, SHAPE)
    path.write_text(json.dumps(content | {"scale": 0.5}))
    scaled = latencies.costs(given(path), space(), 10, SHAPE)
    assert scaled.fixed == pytest.approx(plain.fixed / 2, abs=9)
    for name, prices in plain.operations.items():
        np.testing.assert_allclose(scaled.operations[name], prices / 2, atol=9)


# The program

FLAGS = (
    "--nodes=1 --ops none skip_connect max_pool_3x3 --init_channels=2 --layers=1 --image_size=8"
    " --image_channels=1 --repeats=1"
)


def test_the_program_writes_a_table_that_a_search_reads(tmp_path, monkeypatch, capsys):
    path = tmp_path / "latency.json"
    measure.main([*FLAGS.split(), "--networks=3", "--cache_dir=", f"--output={path}"])
    result, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert {"commit", "versions", "device", "processor", "cores_used"} <= result.keys()
    assert result["agreement"]["networks"] == len(result["networks"]) == 3
    assert "mean error" in printed and "max_pool_3x3 at 8x8x4, stride 2" in printed
    tiny = jd.spaces.darts(1, ("none", "skip_connect", "max_pool_3x3"))
    config = given(path, trained_channels=2, trained_layers=1)
    costs = latencies.costs(config, tiny, 10, SHAPE)
    for row in result["networks"]:
        cell = jd.genotypes.parse(row["genotype"])
        predicted = latencies.of_genotype(costs, tiny, cell)
        scaled = result["scale"] * row["summed_milliseconds"]
        assert predicted == pytest.approx(scaled, rel=1e-4)
        assert row["measured_milliseconds"] > 0
        assert row["multiply_adds"] == jd.count.multiply_adds(cell, 2, 1, 10, SHAPE)


@pytest.mark.parametrize(
    "line, message",
    [
        ("--image_size 8 8 8", "--image_size=8 8 8: give one number, or the height and the width"),
        ("--image_size=31", "--image_size=31: images of 31x31: .*must be even"),
        ("--cores=10000", "--cores=10000: this process has .* of the machine's cores"),
        ("--ops nothing", "ops are .*nothing"),
        ("--space=nasbench201", "invalid choice|nasbench201"),
    ],
)
def test_bad_lines(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop, match=message):
        measure.main(line.split())
    assert not list(tmp_path.iterdir())
