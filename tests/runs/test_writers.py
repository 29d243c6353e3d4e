import io
import json
import logging
import math
import os
import pickle
import re
import sys

import numpy as np
import pytest

from jaxdarts import files
from jaxdarts.runs import writers


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_json_lines_round_trip(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = writers.json_lines(path)
    writer.write(0, {"epoch": 0, "loss": np.float32(0.5)})
    writer.write(np.int32(7), {"epoch": np.int64(1), "loss": math.nan, "norm": math.inf})
    # Every line is flushed: it can be read before the file is closed.
    assert files.read_json_lines(path) == [
        {"step": 0, "epoch": 0, "loss": 0.5},
        {"step": 7, "epoch": 1, "loss": None, "norm": None},
    ]
    writer.close()
    assert path.read_text().splitlines()[0] == '{"step": 0, "epoch": 0, "loss": 0.5}'


def test_json_lines_take_jax_scalars(tmp_path):
    import jax.numpy as jnp

    writer = writers.json_lines(tmp_path / "m.jsonl")
    writer.write(1, {"loss": jnp.asarray(0.25), "skips": jnp.asarray(3)})
    writer.close()
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 1, "loss": 0.25, "skips": 3}\n'


def test_json_lines_refuse_what_is_no_scalar(tmp_path):
    writer = writers.json_lines(tmp_path / "m.jsonl")
    with pytest.raises(TypeError, match="loss is ndarray"):
        writer.write(0, {"loss": np.zeros(3)})
    with pytest.raises(TypeError, match="name is str 'x'"):
        writer.write(0, {"name": "x"})
    with pytest.raises(ValueError, match='values name "step"'):
        writer.write(0, {"step": 3})
    writer.close()
    assert files.read_json_lines(tmp_path / "m.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_cut_off_last_line_is_left_out_and_repaired(tmp_path, cut):
    path = tmp_path / "m.jsonl"
    lines = [json.dumps({"step": i}) + "\n" for i in range(3)]
    path.write_text("".join(lines)[:-cut])
    kept = 3 if cut == 1 else 2  # without its newline alone, the record is whole
    assert [record["step"] for record in files.read_json_lines(path)] == list(range(kept))
    writer = writers.json_lines(path)
    writer.write(9, {})
    writer.close()
    assert [record["step"] for record in files.read_json_lines(path)] == [*range(kept), 9]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 0}\nnot json\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2"):
        files.read_json_lines(path)


def test_resume_drops_later_records(tmp_path):
    path = tmp_path / "m.jsonl"
    first = writers.json_lines(path)
    for step in range(6):
        first.write(step, {"loss": step})
    first.close()
    second = writers.json_lines(path, resume_step=3)
    for step in range(4, 8):
        second.write(step, {"loss": 10 * step})
    second.close()
    records = files.read_json_lines(path)
    assert [record["step"] for record in records] == list(range(8))
    assert [record["loss"] for record in records] == [0, 1, 2, 3, 40, 50, 60, 70]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_resume_without_a_file(tmp_path):
    writers.json_lines(tmp_path / "m.jsonl", resume_step=5).close()
    assert (tmp_path / "m.jsonl").read_text() == ""


def test_replace_text_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError):
        files.replace_text(path, b"no text")
    with pytest.raises(RuntimeError), files.replaced(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_not_utf8_are_written_and_logged(tmp_path, monkeypatch, capsys):
    name = os.fsdecode(b"lat\xffin")
    files.replace_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text() == "lat\\udcffin"
    folder = tmp_path / name
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    log = writers.logger(folder / "log.txt")
    log.info("in %s", folder)
    writers.close_logger(log)
    assert "lat\\udcffin" in (folder / "log.txt").read_text()
    assert b"lat\\udcffin" in sys.stdout.buffer.getvalue()
    assert capsys.readouterr().err == ""


def test_replace_arrays_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.npz"
    files.replace_arrays(path, {"one/two": np.arange(3), "three": [1.5]})
    with pytest.raises(
        (pickle.PicklingError, AttributeError)
    ):  # the first array is in the temporary file by then
        files.replace_arrays(path, {"one/two": np.zeros(2), "three": lambda: None})
    with np.load(path) as saved:
        assert set(saved) == {"one/two", "three"} and saved["three"] == [1.5]
        np.testing.assert_array_equal(saved["one/two"], [0, 1, 2])
    assert list(tmp_path.iterdir()) == [path]
    arrays = files.read_arrays(path)
    assert set(arrays) == {"one/two", "three"} and arrays["three"] == [1.5]
    np.testing.assert_array_equal(arrays["one/two"], [0, 1, 2])


def test_arrays_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        files.read_arrays(path)
    files.replace_arrays(path, {"one": np.arange(100)})
    content_written = path.read_bytes()
    np.save(tmp_path / "alone.npy", np.arange(3))
    alone = (tmp_path / "alone.npy").read_bytes()
    changed = (
        content_written[:300] + b"?" + content_written[301:]
    )  # among the numbers; the archive has a checksum of them
    for content in (b"", b"text", content_written[:50], content_written[:-30], changed, alone):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.npz is damaged, or holds no arrays by name"):
            files.read_arrays(path)


def test_combine_calls_every_writer():
    calls = []

    def recorder(name):
        return writers.Writer(
            lambda step, values: calls.append((name, step, dict(values))),
            lambda: calls.append(name),
        )

    writer = writers.combine(recorder("a"), recorder("b"))
    writer.write(1, {"x": 2.0})
    writer.close()
    assert calls == [("a", 1, {"x": 2.0}), ("b", 1, {"x": 2.0}), "a", "b"]


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = writers.tensorboard(tmp_path / "events")
    writer.write(3, {"train_loss": 0.5})
    writer.close()
    (events,) = (tmp_path / "events").iterdir()
    assert b"train_loss" in events.read_bytes()
    writers.tensorboard(tmp_path / "events", resume_step=2).close()


def test_tensorboard_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        writers.tensorboard(tmp_path)


def test_console_prints_a_line_now_and_then():
    now = 0.0
    stream = io.StringIO()
    writer = writers.console(100, every=10.0, stream=stream, clock=lambda: now)
    for step in range(31):
        writer.write(step, {"epoch": 1, "loss": 2.0 / 3.0})
        now += 1.0
    writer.close()
    lines = stream.getvalue().splitlines()
    assert [re.match(r"step (\d+)/100", line)[1] for line in lines] == ["0", "10", "20", "30"]
    assert lines[1] == "step 10/100  epoch 1  loss 0.6667  1 steps/s  1:30 left"


def test_console_prints_the_last_line_and_no_line_twice():
    stream = io.StringIO()
    writer = writers.console(3, every=10.0, stream=stream, clock=lambda: 0.0)
    for step in range(4):
        writer.write(step, {})
    writer.close()
    writer.close()
    assert stream.getvalue() == "step 0/3\nstep 3/3\n"


def test_console_shows_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = _Terminal()
    writer = writers.console(2, stream=stream)
    writer.write(1, {"loss": 0.5, "[bold]": 1})
    writer.write(2, {"loss": 0.25, "[bold]": 1})
    writer.close()
    assert "2/2" in stream.getvalue()
    assert "loss 0.25  [bold] 1" in stream.getvalue()


def test_console_writes_over_one_line_in_a_notebook():
    class OutStream(io.StringIO):
        """Standard output of a kernel."""

    OutStream.__module__ = "ipykernel.iostream"
    now, stream = 0.0, OutStream()
    writer = writers.console(10, stream=stream, clock=lambda: now, alone=True)
    for step in range(11):
        now += 0.2
        writer.write(step, {"loss": 1.0} if step < 10 else {})
    writer.close()
    shown = stream.getvalue()
    assert shown.count("\n") == 1 and shown.endswith("\n")
    lines = [line.rstrip() for line in shown.split("\r")[1:]]
    assert lines[0] == f"{'░' * 24} 0/10  compiling the first step"
    assert lines[2].startswith(f"{'█' * 12}{'░' * 12} 5/10  loss 1  5 steps/s")
    assert lines[-1] == f"{'█' * 24} 10/10  5 steps/s  0:00 left" and 4 <= len(lines) <= 7
    widths = [len(line) for line in shown.rstrip("\n").split("\r")[1:]]
    assert all(b >= len(a.rstrip()) for a, b in zip(shown.split("\r")[1:], widths[1:]))


def test_console_alone_says_that_it_compiles():
    stream = io.StringIO()
    writer = writers.console(2, stream=stream, clock=lambda: 0.0, alone=True)
    writer.write(2, {})
    writer.close()
    assert stream.getvalue() == "step 0/2  compiling the first step\nstep 2/2\n"


def test_logger_appends_echoes_and_closes(tmp_path, capsys):
    path = tmp_path / "run" / "log.txt"
    for message in ("epoch %d lr %e", "genotype = %d %e"):
        log = writers.logger(path)
        log.info(message, 3, 0.025)
        writers.close_logger(log)
        assert log.handlers == []
    first, second = path.read_text().splitlines()
    assert re.fullmatch(r"\d\d/\d\d \d\d:\d\d:\d\d [AP]M epoch 3 lr 2\.500000e-02", first)
    assert second.endswith(" genotype = 3 2.500000e-02")
    assert capsys.readouterr().out.splitlines() == [first, second]


def test_loggers_stand_alone(tmp_path):
    one, two = writers.logger(tmp_path / "1.txt"), writers.logger(tmp_path / "2.txt")
    one.info("only here")
    writers.close_logger(one)
    writers.close_logger(two)
    assert (tmp_path / "2.txt").read_text() == ""
    assert "jaxdarts" not in logging.root.manager.loggerDict
