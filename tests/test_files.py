"""Files of ours and of users are read with bounds: either a value, or one kind of error in one
line.
"""

import concurrent.futures
import gzip
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from typing import Any, Literal, NotRequired, TypedDict

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from jaxdarts import files, genotypes
from jaxdarts.data import images, text
from jaxdarts.data.benchmarks import nds, tabular
from jaxdarts.runs import writers

FUZZED = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LONGER: dict[str, Callable[..., None]] = {}
"""The same tests with 2,000 examples."""


def fuzzed(**strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of 200 examples, and one of 2,000 that is marked as slow."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        LONGER[test.__name__] = settings(FUZZED, max_examples=2000)(given(**strategies)(test))
        return FUZZED(given(**strategies)(test))

    return decorate


def refuses(read, *words):
    with pytest.raises(files.Damaged) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# --------------------------------------------------------------------------------------------- JSON


class Form(TypedDict):
    name: str
    epochs: int
    seconds: float | None
    kind: Literal["a", "b"]
    rows: NotRequired[list[tuple[str, int]]]


GOOD = {"name": "x", "epochs": 3, "seconds": 1, "kind": "a", "rows": [["b", 2]], "more": {}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": "ten"}, ["epochs is 'ten', not an integer"]),
        ({"epochs": True}, ["epochs is True"]),
        ({"epochs": 2**63}, ["epochs is 9223372036854775808"]),
        ({"epochs": 3.0}, ["epochs is 3.0"]),
        ({"seconds": "1"}, ["seconds is '1', not a number or null"]),
        ({"kind": "c"}, ["kind is 'c', not one of 'a', 'b'"]),
        ({"rows": [["b"]]}, ["rows[0] has 1 entries, not 2"]),
        ({"rows": [["b", 2], ["c", None]]}, ["rows[1][1] is None, not an integer"]),
        ({"rows": {}}, ["rows is {}, not a list"]),
        ({"name": 3}, ["name is 3, not a text"]),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, changes, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | changes))
    refuses(lambda: files.read_json(path, Form, "start again"), str(path), "; start again", *words)


def test_json_round_trip_and_missing_fields(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert files.read_json(path, Form) == GOOD | {"rows": [("b", 2)]}
    path.write_text(json.dumps({"name": "x"}))
    refuses(lambda: files.read_json(path, Form), str(path), "epochs is missing")
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"nul", b"{'a': 1}"):
        path.write_bytes(content)
        refuses(lambda: files.read_json(path, dict), str(path))
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "none.json")


def test_what_is_written_leaves_links_and_pipes_as_they_are(tmp_path):
    """Nothing but a regular file is replaced; `--output=/dev/null` must not remove the device."""
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to("target")
    files.replace_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "after"
    (tmp_path / "dangling").symlink_to("new")
    files.replace_bytes(tmp_path / "dangling", b"made")
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "new").read_text() == "made"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for write, expected in (
            (lambda: files.replace_text(pipe, "text"), b"text"),
            (lambda: files.replace_arrays(pipe, {"a": np.arange(3)}), b"PK"),
        ):
            content = pool.submit(pipe.read_bytes)
            write()
            assert content.result(10).startswith(expected)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"target", "link", "dangling", "new", "pipe"}


def test_only_regular_files_of_bounded_size(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for read in (files.read_text, files.read_arrays, files.read_json_lines, tabular.read, nds.read):
        for source in (path, "/dev/zero"):
            with pytest.raises(ValueError, match="no regular file"):
                read(source)
        with pytest.raises(IsADirectoryError):
            read(tmp_path)
    (tmp_path / "long").write_bytes(b"x" * 11)
    refuses(lambda: files.read_bytes(tmp_path / "long", 10), "more than 10 bytes")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*GOOD, "step", "params"]) | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)


def mutated(content: bytes):
    """The content cut off, with bytes replaced, or something else."""
    edits = st.lists(
        st.tuples(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 255)), max_size=4
    )

    def edited(cut: int, changes: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for position, value in changes:
            changed[position] = value
        return bytes(changed[:cut])

    return st.builds(edited, st.integers(0, len(content)) | st.just(len(content)), edits)


def either(read, path, content):
    """A value, or the one kind of error in one line that names the file."""
    path.write_bytes(content)
    try:
        return read(path)
    except ValueError as error:
        assert "\n" not in str(error) and path.name in str(error), str(error)
        return None


json_bytes = st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode())


@fuzzed(content=json_bytes | mutated(json.dumps(GOOD).encode()))
def test_fuzzed_json(tmp_path, content):
    value = either(lambda path: files.read_json(path, Form), tmp_path / "a.json", content)
    if value is not None:
        assert type(value["epochs"]) is int and value["kind"] in ("a", "b")
        assert type(value["seconds"]) in (int, float, type(None))


RECORDS = b"".join(
    json.dumps({"step": i, "epoch": i, "loss": None, "seconds": 0.5}).encode() + b"\n"
    for i in range(4)
)


@fuzzed(content=mutated(RECORDS) | st.lists(json_bytes, max_size=4).map(b"\n".join))
def test_fuzzed_records(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    records = either(lambda path: files.read_json_lines(path, writers.METRICS), path, content)
    for record in records or ():
        assert type(record["step"]) is int
        assert all(type(v) in (int, float, bool, type(None)) for v in record.values())
    either(lambda path: writers.json_lines(path, 2).close(), path, content)
    if records is not None:  # what is read stays, up to the step
        kept = [record["step"] for record in records if record["step"] <= 2]
        assert [record["step"] for record in files.read_json_lines(path)] == kept


def test_a_null_step_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": null}\n')
    for read in (files.read_json_lines, writers.json_lines):
        refuses(lambda: read(path), f"{path}, line 2", "step is None, not an integer")


# ------------------------------------------------------------------------------------------- arrays


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive(name: str, content: bytes, kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as opened:
        opened.writestr(name, content)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def encrypted(content: bytes) -> bytes:
    """The same archive with the flag of encryption, in both of a member's headers."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(["x", "yy"])}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_are_read(tmp_path, save):
    arrays = ARRAYS | {"c": np.zeros((0, 3)), "d": np.float32(2), "e": np.asfortranarray([[1, 2]])}
    save(tmp_path / "a.npz", **arrays)
    read = files.read_arrays(tmp_path / "a.npz")
    assert set(read) == set(arrays) == set(files.array_names(tmp_path / "a.npz"))
    for name, value in arrays.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == np.asarray(value).dtype
    assert set(files.read_arrays(tmp_path / "a.npz", ["a"])) == {"a"}
    refuses(lambda: files.read_arrays(tmp_path / "a.npz", ["z"]), "no array z, only a, b, c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive("a.npy", header((2**40,)) + b"123"), ["1,099,511,627,776 bytes, and has 3"]),
        (archive("a.npy", header((-1,)) + b"123"), []),
        (archive("a.npy", header((2**70,)) + b"123"), []),
        (archive("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (('   "), ["a.npz"]),
        (archive("a.npy", b"\x93NUMPY\x09\x00"), ["version (9, 0)"]),
        (archive("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"), ["a.npz"]),
        (archive("a.npy", b"nothing"), ["a.npz"]),
        (archive("a.npy", header((1,), "|O") + b"12345678"), ["Python objects", "allow_pickle"]),
        (archive("a.npy", header((1,), "|V8") + b"12345678"), ["type |V8"]),
        (archive("a.npy", b"x" * 99, zipfile.ZIP_LZMA), ["another method than deflate"]),
        (encrypted(npz(a=np.zeros(3))), ["is encrypted"]),
        (npz(a=np.zeros(3))[:-30], ["is damaged"]),
        (b"", ["is damaged"]),
    ],
)
def test_archives_that_are_refused(tmp_path, content, words):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    refuses(lambda: files.read_arrays(path), str(path), *words)
    with pytest.raises(ValueError, match="npz:"):
        images.load(f"npz:{path}")


def test_sizes_are_checked_before_memory_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1_000_000, np.uint8))
    monkeypatch.setattr(files, "_memory", lambda: 100_000)
    refuses(lambda: files.read_arrays(path), "unpacks to 1,000,128 bytes; at most 100,000")


@fuzzed(content=mutated(npz(**ARRAYS)) | st.binary(max_size=80))
def test_fuzzed_arrays(tmp_path, content):
    arrays = either(files.read_arrays, tmp_path / "a.npz", content)
    assert arrays is None or all(isinstance(value, np.ndarray) for value in arrays.values())


SET = npz(
    images_train=np.zeros((6, 2, 2), np.uint8),
    labels_train=np.arange(6) % 2,
    images_test=np.zeros((2, 2, 2), np.uint8),
    labels_test=np.arange(2),
)


@fuzzed(content=mutated(SET))
def test_fuzzed_image_sets(tmp_path, content):
    either(lambda path: images.load(f"npz:{path}"), tmp_path / "a.npz", content)


# ------------------------------------------------------------------------------------ texts, tables

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
TABLE = (
    "arch_str,cifar10_valid_12,cifar10_valid_200,cifar10_test_200,train_seconds_200\n"
    f"{CELL},80,90,93,4000\n"
).encode()
NDS = [
    {
        "net": {
            "genotype": genotypes.DARTS_V2._asdict(),
            "width": 16,
            "depth": 8,
        },
        "params": 1,
        "flops": 1e9,
        "test_ep_top1": [50, 7.5],
    }
]


def test_tables_with_a_mark_or_packed(tmp_path):
    for content in (TABLE, b"\xef\xbb\xbf" + TABLE, gzip.compress(b"\xef\xbb\xbf" + TABLE)):
        (tmp_path / "t.csv").write_bytes(content)
        (cell,) = tabular.read(tmp_path / "t.csv")
        assert str(cell) == CELL
    (tmp_path / "t.csv").write_bytes(TABLE + b"x" * (files.MAX_LINE + 1))
    refuses(lambda: tabular.read(tmp_path / "t.csv"), "line 3: longer than")


@pytest.mark.parametrize("read", [tabular.read, tabular.test_accuracies])
@pytest.mark.parametrize("header", [b'"arch_str,a\nb,c\n', b"a" * 5000 + b",b\n", b"\r,a\n"])
def test_header_of_a_table(read, header, tmp_path):
    """Whatever the columns are called, the message is one short line."""
    (tmp_path / "t.csv").write_bytes(header)
    with pytest.raises(files.Damaged) as error:
        read(tmp_path / "t.csv")
    assert "t.csv" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["params", "flops"])
@pytest.mark.parametrize("value", ["1e999", "-1", "NaN", "null", '"x"', "true", "[1]"])
def test_counts_of_a_design_space(tmp_path, name, value):
    path = tmp_path / "d.json"
    written = json.dumps(NDS).replace(f'"{name}": {NDS[0][name]}', f'"{name}": {value}')
    path.write_text(written)
    with pytest.raises(ValueError, match=rf"record 0: {name} is .*no count"):
        nds.read(path)
    path.write_text(json.dumps(NDS), encoding="utf-8-sig")
    assert [row.multiply_adds for row in nds.read(path).values()] == [10**9]


@fuzzed(content=mutated(TABLE) | mutated(gzip.compress(TABLE)) | st.binary(max_size=60))
def test_fuzzed_tables(tmp_path, content):
    either(tabular.read, tmp_path / "t.csv", content)


@fuzzed(content=mutated(json.dumps(NDS).encode()) | json_bytes)
def test_fuzzed_design_spaces(tmp_path, content):
    either(nds.read, tmp_path / "d.json", content)


def test_an_encrypted_archive_of_a_text(tmp_path):
    content = archive("ptb.train.txt", b"a b c\n")
    (tmp_path / "ptb.zip").write_bytes(encrypted(content))
    with pytest.raises(files.Damaged, match="ptb.train.txt' is encrypted"):
        text.load("ptb", str(tmp_path))


def test_an_archive_of_a_text_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LARGEST", 1000)
    content = archive("ptb.train.txt", b"a" * 2000, zipfile.ZIP_DEFLATED)
    (tmp_path / "ptb.zip").write_bytes(content)
    with pytest.raises(files.Damaged, match="2,000 bytes; at most 1,000"):
        text.load("ptb", str(tmp_path))
    (tmp_path / "ptb.train.txt").write_bytes(b"a" * 2000)
    with pytest.raises(files.Damaged, match="more than 1,000 bytes"):
        text.load("ptb", str(tmp_path))


@fuzzed(content=mutated(archive("train.txt", b"a b c\nd\n", zipfile.ZIP_DEFLATED)))
def test_fuzzed_archives_of_texts(tmp_path, content):
    def load(path):
        try:
            return text._read([tmp_path], ["train.txt"])
        except FileNotFoundError:  # the member has another name now
            return None

    either(load, tmp_path / "x.zip", content)


genotype_text = st.sampled_from(
    [str(genotypes.DARTS_V2), genotypes.to_json(genotypes.PDARTS), CELL]
    + [genotypes.to_nni(genotypes.DARTS_V2), "8:16:24:32:64"]
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@fuzzed(data=st.data(), text=genotype_text)
def test_fuzzed_genotypes(data, text):
    content = data.draw(mutated(text.encode()) | st.binary(max_size=40))
    for read in (genotypes.parse, genotypes.from_json):
        try:
            genotypes.check(read(content.decode("utf-8", "replace")))
        except ValueError:
            pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(LONGER))
def test_longer(name, tmp_path):
    arguments = {} if name == "test_fuzzed_genotypes" else {"tmp_path": tmp_path}
    LONGER[name](**arguments)
