"""The device check: its references, its forms, and a smoke run on a CPU."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import correctness
import device as script
import forms
import measurements
import npz_images
from jaxdarts.data import images

SCRIPT = Path(script.__file__)


@pytest.mark.parametrize(
    "stride, dilation, g, k, size", [(1, 1, 1, 3, 5), (2, 1, 2, 2, 3), (1, 2, 3, 1, 3)]
)
def test_all_forms_compute_the_same_with_the_same_gradients(x64, stride, dilation, g, k, size):
    rng = np.random.default_rng(0)
    x, depthwise, pointwise = (
        jnp.asarray(rng.standard_normal(shape))
        for shape in [(g, 2, 7, 6, 3), (g, k, size, size, 3), (g, k, 3, 4)]
    )
    options = {"stride": stride, "dilation": dilation}
    cotangent = jnp.asarray(rng.standard_normal((g, k, 2, -(-7 // stride), 6 // stride, 4)))

    def results(form):
        y, transpose = jax.vjp(lambda *a: form(*a, **options), x, depthwise, pointwise)
        return {"y": y, "gradients": transpose(cotangent)}

    reference = correctness.vectors(
        jax.jit(lambda: results(forms.grouped))()
    )  # XLA's own convolution
    for name, form in forms.FORMS.items():
        assert correctness.within(
            correctness.errors(jax.jit(lambda form=form: results(form))(), reference), 1e-12
        ), name


def test_the_listed_names_are_those_that_can_be_measured():
    assert (
        tuple(forms.FORMS) == script.FORMS and tuple(measurements.PRECISIONS) == script.PRECISIONS
    )
    assert tuple(correctness.PRIMITIVES) == script.PRIMITIVES
    assert tuple(measurements.PARTS) == tuple(script.SHARES)
    listed = script.items(script.arguments([]))["correctness"]
    assert set(correctness.CASES) == {name for name in listed if not name.startswith("fresh")}


def test_the_stored_reference_is_small_and_what_its_maker_writes(tmp_path):
    assert correctness.REFERENCE.stat().st_size < 2**20
    names = ("depthwise_strided", "max_pool", "batch_norm")
    correctness.make_reference(tmp_path / "made.npz", names)
    for name in names:
        (inputs, results), (stored_inputs, stored) = (
            correctness.read_reference(name, path)
            for path in (tmp_path / "made.npz", correctness.REFERENCE)
        )
        jax.tree.map(np.testing.assert_array_equal, inputs, stored_inputs)
        assert all(a.dtype == np.float64 for a in stored.values())
        assert correctness.within(correctness.errors(results, stored), 1e-12), name


@pytest.mark.parametrize("name", ["supernet", "recurrent"])
def test_gradients_and_second_order_steps_in_float32_are_those_of_the_definition(name):
    case = correctness.CASES[name]
    errors = correctness.checked(case, *correctness.read_reference(name), "float32", "highest")
    assert correctness.within(errors, case.bound / 10), errors


def test_an_error_is_relative_and_a_wrong_or_missing_number_is_never_right():
    reference = {"a": np.array([3.0, 4.0])}
    assert correctness.errors({"a": jnp.array([3.0, 4.5])}, reference) == {"a": 0.1}
    assert not correctness.within(
        correctness.errors({"a": jnp.array([3.0, jnp.nan])}, reference), 1e9
    )
    with pytest.raises(ValueError, match="differ in shape"):
        correctness.errors({"a": jnp.array([3.0])}, reference)


def test_a_wrong_primitive_is_found_out():
    case = correctness.CASES["max_pool"]
    inputs, reference = correctness.read_reference("max_pool")
    wrong = case._replace(
        run=lambda inputs: case.run({**inputs, "weights": 1.01 * inputs["weights"]})
    )
    errors = correctness.checked(wrong, inputs, reference, "float32", "highest")
    assert errors["value"] < 1e-6 and not correctness.within(errors, case.bound)


def test_images_come_back_from_several_files(tmp_path):
    rng = np.random.default_rng(0)
    train = images.Images(
        rng.integers(0, 256, (11, 4, 4, 3), np.uint8), rng.integers(0, 3, 11).astype(np.int32)
    )
    paths = npz_images.write(train, tmp_path / "made", limit=4 * train.images[0].nbytes)
    assert [path.name for path in paths] == ["part-00.npz", "part-01.npz", "part-02.npz"]
    dataset = npz_images.read(tmp_path / "made")
    np.testing.assert_array_equal(dataset.train.images, train.images)
    np.testing.assert_array_equal(dataset.train.labels, train.labels)
    np.testing.assert_allclose(dataset.mean, (train.images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, (train.images / 255).std((0, 1, 2)), rtol=1e-6)
    with pytest.raises(FileNotFoundError, match="no npz files"):
        npz_images.read(tmp_path)
    np.savez(tmp_path / "floats.npz", images=train.images / 255, labels=train.labels)
    with pytest.raises(ValueError, match="float64"):
        npz_images.read(tmp_path)


def test_a_median_is_that_of_one_call():
    calls = []
    timing = measurements.milliseconds(lambda number: calls.append(number), seconds=1e-4, repeats=3)
    assert calls[:2] == [1, 1] and len(calls) == 5 and timing["calls"] == 3 * calls[2]
    assert timing["least_ms"] <= timing["ms"] <= timing["most_ms"]


class Fake:
    """A worker without a process: what it does is in `acts`."""

    acts: dict = {}

    def __init__(self, argv):
        self.dead = False

    def do(self, part, item, seconds):
        assert not self.dead
        act = self.acts.get(item, {"ok": True, "errors": {"float32": {"value": 0.0}}})
        if isinstance(act, Exception):
            raise act
        yield {**act, "device": "a device"}

    def end(self):
        self.dead = True


def run(monkeypatch, capsys, *argv, acts={}):
    monkeypatch.setattr(script, "Worker", Fake)
    monkeypatch.setattr(Fake, "acts", acts)
    code = script.main(["--parts=correctness,peer", "--smoke", *argv])
    return code, [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")
    ]


def test_a_part_that_fails_says_so_and_the_next_one_starts(monkeypatch, capsys, tmp_path):
    acts = {"max_pool": TimeoutError("stopped after 3 s")}
    code, lines = run(monkeypatch, capsys, f"--output={tmp_path / 'out.jsonl'}", acts=acts)
    assert (
        code == 1
        and [line for line in lines if line.get("item") == "max_pool"][0]["error"]
        == "stopped after 3 s"
    )
    assert lines[-1] == {"part": "peer", "skipped": "no --peer", "device": "a device"}
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == lines

    code, again = run(
        monkeypatch, capsys, f"--output={tmp_path / 'out.jsonl'}"
    )  # what is right is not measured anew
    assert code == 0 and [line["item"] for line in again if line["part"] == "correctness"] == [
        "max_pool"
    ]
    code, all_again = run(monkeypatch, capsys, f"--output={tmp_path / 'out.jsonl'}", "--again")
    assert code == 0 and len([line for line in all_again if line["part"] == "correctness"]) == 4


def test_a_wrong_result_is_an_exit_code(monkeypatch, capsys, tmp_path):
    wrong, output = (
        {"ok": False, "errors": {"float32": {"value": 0.5}}},
        f"--output={tmp_path / 'out.jsonl'}",
    )
    assert run(monkeypatch, capsys, output, acts={"max_pool": wrong})[0] == 1
    assert run(monkeypatch, capsys, output)[0] == 1  # it was not measured anew
    assert run(monkeypatch, capsys, output, "--again")[0] == 0


def test_what_is_left_out_for_lack_of_time_is_told(monkeypatch, capsys):
    code, lines = run(monkeypatch, capsys, "--minutes=0.01")
    assert code == 0 and {line["skipped"] for line in lines} == {"no time left", "no --peer"}


def test_speedups_compare_whole_search_steps():
    times = {"weight_step_ms": 20.0, "first_order_ms": 30.0, "second_order_ms": 80.0}
    text = script.table(
        {
            ("steps", "second_order_search float32"): {"ms": 10.0},
            ("peer", "default tf32=off"): times,
        }
    )
    assert text.splitlines()[-1].split()[-1] == "10.00"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run of all parts but the peer, in processes of their own."""
    folder = tmp_path_factory.mktemp("smoke")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    npz_images.write(images.Images(pixels, np.arange(16, dtype=np.int32) % 4), folder / "images")
    flags = [
        "--smoke",
        f"--images={folder / 'images'}",
        f"--cache={jax.config.jax_compilation_cache_dir}",
    ]
    output = [f"--output={folder / 'out.jsonl'}", f"--run_dir={folder / 'run'}"]
    command = [sys.executable, str(SCRIPT), *flags, *output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, done


def test_the_smoke_run_measures_everything(smoke):
    folder, done = smoke
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert not [
        line for line in lines if "error" in line or ("skipped" in line and line["part"] != "peer")
    ], lines
    by_part = {part: [line for line in lines if line["part"] == part] for part in script.SHARES}
    assert all(
        line["ok"] and max(line["errors"]["float32"].values()) < 1e-5
        for line in by_part["correctness"]
    )
    assert all(line["ms"] > 0 and line["difference"] < 1e-5 for line in by_part["forms"])
    assert [line["between_runs"] for line in by_part["options"]] == [0.0] * 2 and by_part[
        "options"
    ][1]["as_default"]
    assert all(
        line["finite"] and line["ms"] > 0 and line["kernels"] > 0 for line in by_part["steps"]
    )
    (record,) = by_part["search"]
    assert (
        record["epochs"] == 2
        and np.isfinite(record["valid_loss"])
        and (folder / "search-report.html").is_file()
    )
    shown = [
        line.split() for line in done.stdout.partition("results so far:")[2].splitlines() if line
    ]
    assert [words[0] for words in shown] == ["correctness"] * 4 + ["forms"] * 4 + ["steps"] * 2 + [
        "options"
    ] * 2 + ["search"]


def test_a_search_stops_for_lack_of_time_and_goes_on_with_the_next_call(smoke, tmp_path):
    flags = [
        "--smoke",
        f"--images={smoke[0] / 'images'}",
        f"--run_dir={tmp_path}",
        f"--output={tmp_path / 'out.jsonl'}",
    ]
    args = script.arguments(flags)
    (first,) = measurements.search_images(args, "search", seconds=0.01)
    assert first["epochs"] == 1 and (tmp_path / "report.html").is_file()
    (second,) = measurements.search_images(args, "search", seconds=1000)
    assert second["epochs"] == 2 and (tmp_path / "search-report.html").is_file()
    with pytest.raises(RuntimeError, match="checkpoint"):  # another number format
        next(
            measurements.search_images(
                script.arguments([*flags, "--search_dtype=bfloat16"]), "search", seconds=1000
            )
        )


def test_the_script_needs_no_package_that_a_device_machine_lacks(tmp_path):
    """tyro, tensorboardX and TFDS cannot be imported here."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tyro', 'tensorboardX',"
        " 'tensorflow_datasets', 'array_record']))"
    )
    code += f"; sys.path.insert(0, {str(SCRIPT.parent)!r}); import device, measurements"
    code += "; import jaxdarts.commands.search.images; print('imported')"
    environment = {"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout == "imported\n", done.stderr


def test_flags_that_cannot_be_are_refused(capsys):
    for flags, word in (
        (["--parts=speed"], "no speed"),
        (["--make_images=digits"], "--output=FOLDER"),
    ):
        with pytest.raises(SystemExit):
            script.main(flags)
        assert word in capsys.readouterr().err
    assert isinstance(script.arguments(["--smoke"]), argparse.Namespace)
