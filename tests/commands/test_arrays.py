"""Functions over arrays. Oracles: the programs' run folders on the same images in an npz file; what
a process looks like before and after.
"""

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import tempfile
import threading

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.commands import arrays
from jaxdarts.commands.evaluate import images as image_training
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import Frontend

RNG = np.random.RandomState(0)
IMAGES, LABELS = RNG.randint(0, 256, (64, 8, 8, 1), np.uint8), np.arange(64) % 3
TEST = {
    "test_images": RNG.randint(0, 256, (9, 8, 8, 1), np.uint8),
    "test_labels": np.arange(9) % 3,
}
SMALL = dict(layers=1, init_channels=2, epochs=2, batch_size=8, num_devices=1, flip=False)
SEARCH = dict(SMALL, nodes=1, ops=("none", "skip_connect"), unrolled=False)
WORDS = (
    "--layers=1 --init_channels=2 --epochs=2 --batch_size=8 --num_devices=1 --no-flip --cache_dir="
    " --tracker=none"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of both programs on these images: search, evaluate."""
    path = tmp_path_factory.mktemp("programs")
    np.savez(
        path / "images.npz",
        images_train=IMAGES,
        labels_train=LABELS,
        images_test=TEST["test_images"],
        labels_test=TEST["test_labels"],
    )
    words = [*WORDS, f"--dataset=npz:{path / 'images.npz'}"]
    of_a_search = "--nodes=1 --ops none skip_connect --no-unrolled".split()
    image_search.main([*words, *of_a_search, f"--run_dir={path / 'search'}"])
    arch = f"--arch={path / 'search'}"
    image_training.main([*words, arch, f"--run_dir={path / 'evaluate'}"])
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search in a folder of its own, in two calls."""
    path = tmp_path_factory.mktemp("arrays") / "search"
    jd.search(IMAGES, LABELS, **TEST, **SEARCH, run_dir=path, max_steps=3, tracker="none")
    return jd.search(IMAGES, LABELS, **TEST, **SEARCH, run_dir=path, max_steps=0)


@pytest.fixture(scope="module")
def model(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "evaluate"
    return jd.train(found, IMAGES, LABELS, **TEST, **SMALL, run_dir=path, tracker="none")


def test_a_search_in_two_calls_finds_what_the_program_finds(folder, found):
    with np.load(folder / "search" / "alphas.npz") as alphas:
        with np.load(found.run_dir / "alphas.npz") as others:
            assert list(alphas) == list(others)
            for name in alphas:
                np.testing.assert_array_equal(alphas[name], others[name])
    facts = json.loads((folder / "search" / "facts.json").read_text())
    assert jd.genotypes.to_json(found.genotype) == (folder / "search/genotype.json").read_text()
    assert found.validation_accuracy == facts["found_cell_supernet_accuracy"]
    assert [record["epoch"] for record in found.history] == [0, 1]
    assert found.report == (found.run_dir / "report.html").read_text()
    log = (folder / "search" / "log.txt").read_text()
    assert found.summary in log and str(found) == f"{found.summary}\n{found.genotype}"


def test_a_finished_search_is_found_again(found, capsys):
    again = jd.search(IMAGES, LABELS, **TEST, **SEARCH, run_dir=found.run_dir)
    assert again.genotype == found.genotype and again.history == found.history
    assert again.validation_accuracy == found.validation_accuracy
    assert capsys.readouterr().out == ""


def test_a_model_is_what_the_program_trains(folder, model):
    apply, params = jd.load(folder / "evaluate")
    expected = np.asarray(apply(params, TEST["test_images"]))
    logits = model(TEST["test_images"])
    assert logits.shape == (9, 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert model.accuracy == pytest.approx(np.mean(logits.argmax(1) == TEST["test_labels"]))
    assert model.class_names == ("0", "1", "2") and len(model.history) == 2
    np.testing.assert_allclose(model(TEST["test_images"][..., 0]), logits, atol=1e-6)
    assert model(IMAGES[:0]).shape == (0, 3)
    assert str(model).startswith(f"test accuracy {model.accuracy:.2%}\n")


def test_a_model_computes_many_images_in_batches(model):
    many = np.concatenate([IMAGES] * 3)  # 192: two batches, one of them filled up
    logits = model(many)
    np.testing.assert_allclose(logits[:64], logits[128:], atol=1e-5)
    np.testing.assert_allclose(model(many[:1])[0], logits[0], atol=1e-5)


def test_a_saved_model_is_loaded(model, tmp_path):
    model.save(tmp_path / "network")
    apply, params = jd.load(tmp_path / "network")
    np.testing.assert_allclose(apply(params, IMAGES), model(IMAGES), atol=1e-5)
    for name in ("network.json", "weights.npz"):
        assert (tmp_path / "network" / name).exists()
    assert jd.training.export.facts_of(tmp_path / "network") == model.facts


def test_a_report_is_shown_in_a_notebook(found, model):
    for one in (found, model):
        frame = r'<iframe srcdoc="[^"<>]+" title="report" style="[^"]+"></iframe>'
        assert re.fullmatch(frame, one._repr_html_()) and "&lt;svg" in one._repr_html_()
        assert len(repr(one)) < 2000
    call = "jd.train(found, images, labels"
    assert "jd.search(images, labels, " in found.report and call in found.report
    assert f"{call}, " in model.report and "model.save(" in model.report
    for command in ("jaxdarts search", "jaxdarts evaluate --", "jaxdarts draw"):
        assert command not in found.report + model.report


def process() -> dict:
    """What a run could change in its process."""
    return {
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "environment": dict(os.environ),
        "collector": (gc.get_threshold(), gc.get_freeze_count() > 0),
        "jax": dict(jax.config.values),
        "numpy": np.random.get_state()[1].tolist(),
        "threads": threading.active_count(),
    }


def test_nothing_is_left_behind_and_a_thread_may_search(found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, results = process(), []

    def work():
        results.append(jd.search(IMAGES, LABELS, **TEST, **SEARCH))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].genotype == found.genotype and results[0].run_dir is None
    assert process() == before and not list(tmp_path.iterdir())
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("step 0/8  compiling the first step\n")
    assert all(line.startswith("step ") for line in out.splitlines()) and "step 8/8" in out


def test_ctrl_c_goes_through(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(image_search, "search", stop)
    # A suite that a shell has put into the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            jd.search(IMAGES, LABELS, **TEST, **SEARCH)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"epoch": 1}, TypeError, "search() has no argument 'epoch': do you mean 'epochs'?"),
        ({"zzz": 1}, TypeError, "search() has no argument 'zzz', and the program no such flag"),
        ({"dataset": "digits"}, TypeError, "'dataset', a flag of the program alone"),
        ({"epochs": 0}, ValueError, "^epochs=0: must be positive$"),
        ({"epochs": 1.5}, ValueError, "epochs.*1.5"),
        ({"epochs": None}, ValueError, "epochs=None: must have a value"),
        ({"epochs": np.int64(2), "batch_size": 99}, ValueError, "^batch_size=99: larger than"),
        ({"algorithm": "none"}, ValueError, "'none'"),
        ({"stop_size": ()}, ValueError, "stop_size: give one value or more"),
        ({"flip": "maybe"}, ValueError, "maybe"),
        ({"class_names": ["a"]}, ValueError, "1 class names, but 3 classes"),
        ({"run_dir": ""}, ValueError, "^run_dir=: must not be empty"),
    ],
)
def test_bad_settings_are_one_line(settings, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(error, match=words if error is ValueError else re.escape(words)) as caught:
        jd.search(IMAGES, LABELS, **TEST, **{**SEARCH, **settings})
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "found, settings, error, words",
    [
        ("NOTHING", {}, ValueError, "found=NOTHING: no such file, and no published cell"),
        ("DARTS_V1", {"arch": "DARTS_V2"}, TypeError, "no argument 'arch'"),
        ("DARTS_V1", {"num_seeds": 2}, ValueError, "num_seeds=2: one model is trained"),
        ("DARTS_V1", {"unrolled": True}, TypeError, "train() has no argument 'unrolled'"),
    ],
)
def test_bad_settings_of_a_training(found, settings, error, words):
    with pytest.raises(error, match=re.escape(words)):
        jd.train(found, IMAGES, LABELS, **SMALL, **settings)


def test_a_folder_of_another_run_is_refused(found, model):
    def line(function, *arguments, **settings):
        with pytest.raises(ValueError) as caught:
            function(*arguments, **TEST, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    here = {"run_dir": found.run_dir}
    assert line(jd.search, 255 - IMAGES, LABELS, **SEARCH, **here) == (
        f"run_dir={found.run_dir}: a run with other images or labels; name another"
    )
    changed = line(jd.search, IMAGES, LABELS, **{**SEARCH, "epochs": 3}, **here)
    assert "the run has epochs=2, not 3" in changed
    assert line(jd.train, found, IMAGES, LABELS, **here) == (
        f"run_dir={found.run_dir}: a run of jaxdarts search; name another"
    )
    other = line(jd.train, "DARTS_V1", IMAGES, LABELS, run_dir=model.run_dir)
    assert "the run has arch=" in other
    with pytest.raises(jd.runs.Stop, match="arrays given to a function in Python; call it again"):
        image_search.main([f"--resume={found.run_dir}"])


def test_the_best_of_several_seeds_is_found(found, tmp_path):
    files = "facts.json genotype.json metrics.jsonl report.html".split()
    for seed, loss in ((2, 1.5), (3, 0.5), (4, 2.5)):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        for name in files:
            shutil.copy(found.run_dir / name, folder)
        facts = json.loads((folder / "facts.json").read_text())
        facts |= {"found_cell_supernet_loss": loss, "found_cell_supernet_accuracy": seed / 10}
        (folder / "facts.json").write_text(json.dumps(facts))
    config = image_search.Config(nodes=1, num_seeds=3, seed=2)
    best = arrays._found(config, tmp_path, None)
    assert best.validation_accuracy == 0.3 and best.run_dir is None
    assert best.genotype == found.genotype and best.history == found.history


@pytest.mark.parametrize(
    "line, lasts, expected",
    [
        ("no space; continue with --resume=a/b", True, "no space; continue with run_dir=a/b"),
        ("no space; continue with --resume='a b'", False, "no space"),
        ("--epochs=0: no -- or --help; --help lists the flags", True, "epochs=0: no -- or help"),
    ],
)
def test_lines_in_the_words_of_a_call(line, lasts, expected):
    assert arrays._in_python(line, lasts) == expected


def test_a_run_without_signals_lets_them_be(tmp_path):
    config = image_search.Config(run_dir=str(tmp_path / "run"))
    with contextlib.suppress(KeyboardInterrupt):
        with jd.runs.open_run(config, "search", frontend=Frontend(signals=False)):
            raise KeyboardInterrupt
        raise AssertionError("swallowed")
