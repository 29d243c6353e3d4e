"""jaxdarts export and jaxdarts predict. Oracle: the network as `jd.load` gives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdarts as jd
from jaxdarts import genotypes
from jaxdarts.commands import export, predict
from jaxdarts.runs import Stop
from tests.training.test_onnx import saved

CELL = genotypes.parse(
    "Genotype(normal=[('skip_connect', 1), ('skip_connect', 0)], normal_concat=[2],"
    " reduce=[('max_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), CELL, 2, 1, (8, 8, 3))


def test_both_formats(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    export.main([str(run), "--format=onnx", "--repeats=2"])
    text = capsys.readouterr().out
    assert f"wrote {run / 'network.onnx'}" in text and "largest difference to JAX" in text
    assert text.count("an image on one core") == 2
    export.main([str(run), f"--output={tmp_path / 'a.bin'}"])
    assert "six months" in capsys.readouterr().out
    pixels = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), np.uint8)
    apply, params = jd.load(run)
    np.testing.assert_allclose(
        jd.read_exported(tmp_path / "a.bin")(pixels), apply(params, pixels), atol=1e-4
    )


def test_a_missing_package_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(Stop, match=r'pip install "jaxdarts\[onnx\]"'):
        export.main([str(run), "--format=onnx", f"--output={tmp_path / 'a.onnx'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (export, [], "name the run folder"),
        (export, ["nothing"], "nothing holds no trained network"),
        (predict, ["nothing"], "name the run folder of a trained network and pictures"),
        (predict, ["nothing", "a.png"], "nothing holds no trained network"),
        (predict, ["nothing", "a.png", "--top=0"], "--top=0: must be positive"),
    ],
)
def test_one_line_says_what_is_wrong(program, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop, match=message) as caught:
        program.main(arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_pictures_of_any_kind_and_a_broken_one(run, tmp_path, capsys):
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(pixels)
    files = {name: tmp_path / name for name in ("same.png", "large.png", "grey.png", "p.png")}
    picture.save(files["same.png"])
    picture.resize((40, 24), Image.Resampling.NEAREST).save(files["large.png"])
    picture.convert("L").save(files["grey.png"])
    picture.convert("P").save(files["p.png"])
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "broken.png").write_text("no picture")
    words = [
        str(path) for path in (*files.values(), tmp_path / "cmyk.jpg", tmp_path / "broken.png")
    ]
    with pytest.raises(Stop, match="1 of 6 files could not be read"):
        predict.main([str(run), *words])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and f"{tmp_path / 'broken.png'} is no readable image" in lines[-1]
    assert all(line.count("%") == 3 for line in lines[:-1])
    apply, params = jd.load(run)
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, -1)
    for line, array in zip((lines[0], lines[2]), (pixels, grey)):
        chances = np.asarray(jax.nn.softmax(apply(params, jnp.asarray(array[None]))[0]))
        best = int(chances.argmax())
        assert f"  class {best} {100 * chances[best]:.1f} %  " in line


def test_pictures_that_are_all_broken_are_named(run, tmp_path, capsys):
    (tmp_path / "empty.png").touch()
    with pytest.raises(Stop, match="3 of 3 files could not be read"):
        predict.main([str(run), *(str(tmp_path / name) for name in ("empty.png", "none.png", "."))])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("is no readable image" in line for line in lines)


def test_a_folder_without_a_network_names_the_way_out(run, tmp_path):
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed-3").symlink_to(run)
    (tmp_path / "search").mkdir()
    for folder, way in (
        ("none", "there is no such folder"),
        ("search", "name the folder of a finished run of jaxdarts evaluate"),
        ("seeds", f"name one, such as {tmp_path / 'seeds' / 'seed-3'}$"),
    ):
        for program, more in ((export, []), (predict, ["a.png"])):
            with pytest.raises(Stop, match=way) as caught:
                program.main([str(tmp_path / folder), *more])
            assert str(caught.value).count(f"{tmp_path / folder} ") == 1


def test_pictures_need_pillow_and_one_or_three_channels(run, tmp_path, monkeypatch):
    several = saved(tmp_path, CELL, 2, 1, (8, 8, 4))
    with pytest.raises(Stop, match="takes images of 4 channels"):
        predict.main([str(several), "a.png"])
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(Stop, match="pip install pillow"):
        predict.main([str(run), "a.png"])
