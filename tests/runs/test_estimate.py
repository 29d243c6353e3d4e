"""--estimate --device: what a run would take on a device that is not there."""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxdarts as jd
from jaxdarts import aot, runs
from jaxdarts.commands.evaluate import command as evaluate_command
from jaxdarts.commands.search import command as search_command
from jaxdarts.commands.search import images as image_search
from jaxdarts.nn.primitives.platforms import per_platform

CELL = jd.Genotype(
    (("skip_connect", 0), ("skip_connect", 1)),
    (2,),
    (("skip_connect", 0), ("skip_connect", 1)),
    (2,),
)
SMALL = "--layers=1 --init_channels=2 --epochs=2".split()
SEARCH = [*SMALL, *"--nodes=1 --ops none skip_connect --no-unrolled".split()]
TEXT = "--batch_size=8 --emsize=4 --bptt=6 --epochs=2".split()


@pytest.fixture
def words(tmp_path):
    """A folder with a short text."""
    for part, size in (("train", 400), ("valid", 90), ("test", 60)):
        (tmp_path / f"{part}.txt").write_text(" ".join(f"word{i % 9}" for i in range(size)) + "\n")
    return f"--dataset=text:{tmp_path}"


def stopped(main, arguments) -> str:
    """The line that a script ends with where it refuses its flags."""
    with pytest.raises(runs.Stop) as caught:
        main(arguments)
    assert caught.value.code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["search", "evaluate", "text search", "text evaluate"])
def test_a_gpu_that_is_not_there(name, words, capsys):
    try:
        device = aot.target("h100")
    except RuntimeError as error:
        pytest.skip(str(error))
    recurrent = "Genotype(recurrent=[('tanh', 0)], concat=[1])"
    main, flags = {
        "search": (search_command.main, SEARCH),
        "evaluate": (evaluate_command.main, [f"--arch={CELL}", *SMALL]),
        "text search": (search_command.main, [words, *TEXT, "--nodes=2", "--ops", "none", "tanh"]),
        "text evaluate": (
            evaluate_command.main,
            [words, *TEXT, f"--arch={recurrent}", "--eval_batch_size=3", "--max_seq_len_delta=4"],
        ),
    }[name]
    main(
        [
            *flags,
            f"--cache_dir={jax.config.jax_compilation_cache_dir}",
            "--estimate",
            "--device=h100",
        ]
    )
    out = capsys.readouterr().out
    for text in (
        "steps an epoch .* 2 epochs, \\d+ in all",
        "memory of a step .* MB a device",
        "compilation .* s",
        "kernels of a step +\\d+",
    ):
        assert re.search(text, out), text
    assert out.endswith("\nfits in the 79 GiB of one h100\n")
    assert int(re.search(r"kernels of a step +(\d+)", out)[1]) > 10
    assert 0 < float(re.search(r"memory of a step +([\d.]+) MB", out)[1]) < device.memory / 1e6


def test_the_sentence(monkeypatch):
    """Memory that is too small, too small by default, and large enough."""
    monkeypatch.setattr(aot, "target", lambda name: aot.Target(name, "", (), 40 << 30))
    assert (
        runs.fits("a100", 41 << 30, "lower it")
        == "does not fit: it needs 41.0 GiB, one a100 has 40 GiB; lower it"
    )
    assert "with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in runs.fits("a100", 31 << 30, "")
    assert runs.fits("a100", 30 << 30, "") == "fits in the 40 GiB of one a100"
    assert runs.fits("v5e", 31 << 30, "") == "fits in the 40 GiB of one v5e"


FORMS = {"default": jnp.sin, "tpu": jnp.cos}


@pytest.mark.parametrize("remat", [False, True])
def test_no_room_while_it_compiles(monkeypatch, capsys, remat):
    """The compiler for TPUs places every array, and says so where it cannot."""

    class Step:
        def compile(self, *arguments):
            # Traced for a TPU, and not kept in a cache that cannot read it back.
            assert "branches_platforms" in str(
                jax.make_jaxpr(lambda x: per_platform(x, **FORMS))(1.0)
            )
            assert not jax.config.jax_enable_compilation_cache
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.1G of 15.75G hbm.\nmore")

    config = image_search.Config(device="v5e", estimate=True, remat=remat)
    assert str(runs.estimate(config, Step(), [None], (), 22)) == "nan"
    hint = "lower --batch_size" if remat else "lower --batch_size or give --remat"
    assert capsys.readouterr().out.endswith(
        f"does not fit in one v5e: RESOURCE_EXHAUSTED: Used 20.1G of 15.75G hbm.; {hint}\n"
    )


def test_a_missing_plugin_is_one_line(monkeypatch, words):
    def missing(name):
        raise RuntimeError(f"to compile for {name}, pip install 'jax[cuda13]'")

    monkeypatch.setattr(aot, "target", missing)
    flags = ["--estimate", "--device=h100"]
    for main, command_flags in (
        (search_command.main, []),
        (evaluate_command.main, [f"--arch={CELL}"]),
        (search_command.main, [words, "--batch_size=8"]),
    ):
        assert (
            stopped(main, [*command_flags, *flags])
            == "--device=h100: to compile for h100, pip install 'jax[cuda13]'"
        )


def test_bad_input():
    line = stopped(search_command.main, ["--estimate", "--device=h1000"])
    assert "no device is called 'h1000'" in line and all(name in line for name in aot.NAMES)
    assert "--device=h100: only with --estimate" in stopped(search_command.main, ["--device=h100"])
    assert "--num_devices=2" in stopped(
        search_command.main, ["--estimate", "--device=h100", "--num_devices=2"]
    )


def test_help_names_every_device(capsys):
    with pytest.raises(SystemExit):
        search_command.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in aot.NAMES)
