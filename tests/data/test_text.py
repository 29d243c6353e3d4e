"""Texts. Oracles: published word counts of real texts; the definitions on small ones."""

import zipfile

import numpy as np
import pytest

from jaxdarts.data import text


@pytest.mark.parametrize(
    "name, sizes, vocabulary",
    [
        ("ptb", (929_589, 73_760, 82_430), 10_000),
        ("wikitext2", (2_088_628, 217_646, 245_569), 33_278),
    ],
)
def test_published_counts(shared, name, sizes, vocabulary):
    loaded = text.load(name, str(shared / "data"))
    assert tuple(len(part) for part in loaded[1:4]) == sizes
    assert len(loaded.vocabulary) == vocabulary == 1 + max(part.max() for part in loaded[1:4])
    assert text.END in loaded.vocabulary and len(set(loaded.vocabulary)) == vocabulary


def test_pydoc_is_a_text_of_its_own():
    loaded = text.load("pydoc")
    train, valid, test = loaded[1:4]
    assert (
        len(train) > 50_000
        and 5_000 < len(valid) < len(train) / 5
        and 5_000 < len(test) < len(train) / 5
    )
    assert 1_000 < len(loaded.vocabulary) < 5_000
    assert set(np.concatenate([train, valid, test]).tolist()) == set(range(len(loaded.vocabulary)))
    again = text.load("pydoc")
    np.testing.assert_array_equal(train, again.train)


def write(folder, **parts):
    folder.mkdir(exist_ok=True)
    for name, content in parts.items():
        (folder / f"{name}.txt").write_bytes(content)
    return f"text:{folder}"


def test_words_and_their_places(tmp_path):
    loaded = text.load(
        write(tmp_path, train=b"the cat\n\n the  dog\n", valid=b"a cat", test="der Bär\n".encode())
    )
    assert loaded.vocabulary == ("the", "cat", "<eos>", "dog", "a", "der", "Bär")
    np.testing.assert_array_equal(loaded.train, [0, 1, 2, 2, 0, 3, 2])
    np.testing.assert_array_equal(loaded.valid, [4, 1, 2])
    np.testing.assert_array_equal(loaded.test, [5, 6, 2])


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train.txt in .*nowhere"):
        text.load(f"text:{tmp_path}/nowhere")
    name = write(tmp_path, train=b"a b", valid=b"\xff\xfe", test=b"a")
    with pytest.raises(ValueError, match=r"valid.txt is not UTF-8"):
        text.load(name)
    write(tmp_path, valid=b" \n")
    with pytest.raises(ValueError, match=r"valid.txt is empty"):
        text.load(name)
    with pytest.raises(ValueError, match="no text 'cifar10'"):
        text.load("cifar10")
    with pytest.raises(FileNotFoundError, match=r"no ptb.train.txt or train.txt in .* and "):
        text.load("ptb", str(tmp_path / "data"))


def test_named_sets_are_checked_and_read_from_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("__MACOSX/._ptb.train.txt", "junk")
        for part in text.PARTS:
            archive.writestr(f"data/ptb.{part}.txt", "one two\n")
    with pytest.raises(ValueError, match="ptb has 3 words in its vocabulary; published are 10,000"):
        text.load("ptb", str(tmp_path))
    (tmp_path / "other.zip").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other.zip is no zip archive"):
        text.load("ptb", str(tmp_path))


def test_streams():
    rows = text.streams(np.arange(103, dtype=np.int32), 10)
    assert rows.shape == (10, 10)
    np.testing.assert_array_equal(rows[:, 2], np.arange(20, 30))
    with pytest.raises(
        ValueError, match="29 words are too short a text for a batch of 10: it needs 30"
    ):
        text.streams(np.arange(29), 10)


@pytest.mark.parametrize("rows", [3, 4, 20, 500])
@pytest.mark.parametrize("deviation", [0.0, 5.0])
def test_random_windows_cover_the_stream(rows, deviation):
    start, length = text.random_windows(1, 2, rows, 35, deviation, longest=55)
    assert start[0] == 0 and (length > 0).all() and length.max() <= 55
    np.testing.assert_array_equal(start[1:], start[:-1] + length[:-1])
    assert rows - 2 <= start[-1] + length[-1] <= rows - 1
    plain = text.windows(rows, 7)
    assert plain.length.sum() == rows - 1 and plain.length.max() <= 7


def test_random_windows_follow_the_published_law():
    plain = text.random_windows(0, 0, 2_000_000)
    assert set(plain.length[:-1].tolist()) == {17, 35}
    assert abs(np.mean(plain.length == 17) - 0.05) < 0.005
    drawn = text.random_windows(0, 0, 2_000_000, deviation=5.0, longest=55).length
    # Rounding towards zero takes half a row off the mean.
    assert abs(np.median(drawn[drawn > 24]) - 35) <= 1 and abs(drawn[drawn > 24].std() - 5) < 0.3
    assert drawn[:-1].min() >= 5 and drawn.max() <= 55
    np.testing.assert_array_equal(
        text.random_windows(3, 1, 999).length, text.random_windows(3, 1, 999).length
    )
    assert not np.array_equal(
        text.random_windows(3, 1, 9999).length, text.random_windows(3, 2, 9999).length
    )
