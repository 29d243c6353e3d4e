"""What --arch names: folders, files and texts of every dialect, whatever their names look like."""

import pytest

from jaxdarts import genotypes
from jaxdarts.commands.evaluate import recipes
from jaxdarts.runs import Stop

CELL = genotypes.DARTS_V2


@pytest.mark.parametrize("name", ["my run (copy)", "a {b}", "c|d~0|", "8:16:24:32:64", "a.json"])
@pytest.mark.parametrize("write", [genotypes.to_json, genotypes.to_nni, genotypes.to_nested, str])
def test_what_is_on_the_disk_is_read(tmp_path, monkeypatch, name, write):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(write(CELL), encoding="utf-8-sig")
    assert recipes.named(name) == CELL
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "genotype.json").write_text(genotypes.to_json(CELL))
    assert recipes.named(name) == CELL
    assert recipes.named(str(CELL)) == CELL


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(Stop, match="bad.json is no text in UTF-8") as stop:
        recipes.named(str(tmp_path / "bad.json"))
    assert stop.value.code == 2
