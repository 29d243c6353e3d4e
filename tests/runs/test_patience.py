"""Log lines of what takes minutes, and the seconds of the last time."""

import dataclasses
import logging
import time

from jaxdarts.runs import patience


@dataclasses.dataclass(frozen=True)
class Config:
    cache_dir: str = ""
    epochs: int = 3


# The fingerprint knows classes of this package only.
Config.__module__ = "jaxdarts.commands.toy"


def test_lines_while_it_goes_on(monkeypatch):
    lines = []
    log = logging.Logger("toy")
    log.info = lambda text, *values: lines.append(text % values)
    monkeypatch.setattr(patience, "EVERY", 0.05)
    with patience.patience(log, "compiling the step", last=104.4):
        time.sleep(0.18)
    count = len(lines)
    assert count >= 2
    assert set(lines) == {"compiling the step: 0 s so far; the last time it took 104 s"}
    time.sleep(0.1)
    assert len(lines) == count  # it has ended


def test_seconds_are_kept_by_configuration(tmp_path):
    one = Config(str(tmp_path))
    other = dataclasses.replace(one, epochs=4)
    assert patience.Clock(one).last() is None
    patience.Clock(one).keep(104.26)
    assert patience.Clock(one).last() == 104.3 and patience.Clock(other).last() is None
    patience.Clock(other).keep(1)
    assert patience.Clock(one).last() == 104.3 and patience.Clock(other).last() == 1


def test_a_damaged_file_or_no_folder_is_no_error(tmp_path):
    config = Config(str(tmp_path))
    (tmp_path / "first_steps.json").write_text('{"a": "b"}')
    assert patience.Clock(config).last() is None
    patience.Clock(config).keep(2)
    assert patience.Clock(config).last() == 2
    nowhere = patience.Clock(Config(""))
    nowhere.keep(3)
    assert nowhere.last() is None
    file = tmp_path / "a file"
    file.write_text("")
    patience.Clock(Config(str(file))).keep(3)
