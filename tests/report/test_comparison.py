"""Sections of a report, and the page of several runs."""

import html
import re

import numpy as np
import pytest

from jaxdarts import genotypes, report
from jaxdarts.report import comparison, sections
from jaxdarts.report.sections import Section, Table
from tests.browser import assert_readable, loaded, needs_browser
from tests.report.test_page import _arguments

GRID = np.linspace(-1, 1, 5)
PICTURE = report.surfaces.contour(
    np.add.outer(GRID**2, GRID**2),
    GRID,
    GRID,
    title="Loss",
    xlabel="direction 1",
    ylabel="direction 2",
)
ABOUT = {"commit": "abc", "command": "analyze.py"}


def section(name="landscape", rows=3):
    table = Table(
        "A table & more", ["cell", "loss"], [[f"cell {i}", f"{i / 10}"] for i in range(rows)]
    )
    return Section(
        name,
        f"The {name}",
        "How it was <b>measured</b>.",
        {"Least": "0.1"},
        [table],
        {"loss": PICTURE},
    )


def written(folder, *names):
    for name in names:
        sections.write(folder, section(name), {"loss": [[1.0, None]]}, ABOUT)
    return sections.read(folder)


def test_sections_are_what_was_written(tmp_path):
    analyses = written(tmp_path, "variance", "landscape")
    assert [each.name for each in analyses] == ["landscape", "variance"]
    assert analyses[0]._replace(tables=[Table(*analyses[0].tables[0])]) == section()
    assert {path.name for path in (tmp_path / "analysis").iterdir()} == {
        "landscape.json",
        "landscape-loss.svg",
        "variance.json",
        "variance-loss.svg",
    }
    with pytest.raises(ValueError, match="JSON compliant"):
        sections.write(tmp_path, section(), {"loss": float("nan")}, ABOUT)
    assert sections.read(tmp_path / "nothing") == []


def test_sections_of_seeds_without_a_page(tmp_path):
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        written(tmp_path / f"seed-{seed}", "landscape")
    (tmp_path / "seed-1" / "report.html").write_text("its own")
    assert [(each.name, each.title) for each in sections.gather(tmp_path)] == [
        ("landscape-seed-0", "The landscape, seed-0"),
    ]


GOOD = '{"name": "landscape", "title": "", "text": "", "tables": [], "facts": {}, "pictures": []}'


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"name": "landscape"}',
        GOOD.replace("{}", '["a"]'),
        GOOD.replace("{}", '{"a": 1}'),
        GOOD.replace('"title": ""', '"title": null'),
        GOOD.replace('"tables": []', '"tables": [1]'),
        GOOD.replace('"landscape"', '"variance"'),
        GOOD.replace('"pictures": []', '"pictures": ["../../secret"]'),
        GOOD.replace('"pictures": []', '"pictures": ["missing"]'),
    ],
)
def test_a_spoilt_analysis_is_named(damage, tmp_path):
    written(tmp_path, "landscape")
    (tmp_path / "analysis" / "landscape.json").write_text(damage)
    with pytest.raises(ValueError, match="landscape.json is no analysis, remove it"):
        sections.read(tmp_path)


def test_pictures_outside_of_the_folder_are_not_read(tmp_path):
    written(tmp_path, "landscape")
    (tmp_path / "secret.svg").write_text("<svg>secret</svg>")
    path = tmp_path / "analysis" / "landscape.json"
    path.write_text(GOOD.replace('"pictures": []', '"pictures": ["loss"]'))
    assert sections.read(tmp_path)[0].pictures == {"loss": PICTURE}
    (tmp_path / "analysis" / "landscape-loss.svg").unlink()
    (tmp_path / "analysis" / "landscape-loss.svg").symlink_to(tmp_path / "secret.svg")
    with pytest.raises(ValueError, match="not in the folder"):
        sections.read(tmp_path)


HOSTILE = (
    '<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=\'run\'">'
    "<script>document.title = 'run'</script></svg><script>document.title = 'run'</script>"
    "<img src=x onerror=\"document.title = 'run'\">"
)


def hostile_pages(folder):
    """The report and the comparison of a run folder whose picture and texts hold programs."""
    (folder / "analysis").mkdir()
    text = GOOD.replace('"title": ""', '"title": "<script>document.title=1</script>"')
    text = text.replace('"pictures": []', '"pictures": ["x"]')
    (folder / "analysis" / "landscape.json").write_text(text)
    (folder / "analysis" / "landscape-x.svg").write_text(HOSTILE)
    analyses = sections.read(folder)
    report.page.write(folder / "report.html", **_arguments(epochs=3), sections=analyses)
    entry = comparison.Entry("run", genotypes.DARTS_V2, sections=analyses)
    comparison.write(folder / "comparison.html", [entry])
    return [(folder / name).read_text() for name in ("report.html", "comparison.html")]


def test_pictures_of_a_foreign_folder_are_images(tmp_path):
    for page in hostile_pages(tmp_path):
        assert "<script" not in page and "onload" not in page and "onerror" not in page
        assert page.count(sections.image(HOSTILE)) == 1


@needs_browser
def test_pictures_of_a_foreign_folder_run_nothing(tmp_path):
    for page in hostile_pages(tmp_path):
        dom = loaded(page, tmp_path)
        assert "<title>run</title>" not in dom and "<title>" in dom


def test_a_report_is_extended_and_extended_again(tmp_path):
    page = tmp_path / "report.html"
    report.page.write(page, **_arguments(epochs=3))
    bare = page.read_text()
    analyses = written(tmp_path, "landscape", "variance")
    report.page.extend(page, analyses)
    once = page.read_text()
    assert (
        once.startswith("<!DOCTYPE html>")
        and once.count("The landscape") > 1
        and "<b>measured" not in once
    )
    assert (
        once.count(sections.image(PICTURE)) == 2
        and html.unescape(once).count("How it was <b>measured</b>.") == 2
    )
    report.page.extend(page, analyses)
    assert page.read_text() == once
    report.page.write(
        page, **_arguments(epochs=3), sections=analyses
    )  # as a run that is resumed does
    assert page.read_text() == once
    report.page.extend(page, [])
    assert page.read_text() == bare
    page.write_text("<html></html>")
    with pytest.raises(ValueError, match="has no place for analyses"):
        report.page.extend(page, analyses)


def entries():
    arguments = _arguments(epochs=4)
    rows = []
    for i, name in enumerate(("DARTS_V1", "DARTS_V2", "NASNet")):
        records = [
            {**record, "valid_loss": record["valid_loss"] + i} for record in arguments["records"]
        ]
        facts = {
            "dataset": "digits",
            "test_accuracy": 0.9 + i / 100,
            **({"eigenvalue": 0.2} if i else {}),
        }
        settings = {"seed": i, "epochs": 4, "optim": {"lr": 0.1 * i}}
        rows.append(
            comparison.Entry(
                f"run <{i}>",
                genotypes.PUBLISHED[name],
                facts,
                settings,
                records,
                [section(rows=20)] if i else [],
            )
        )
    rows.append(comparison.Entry("AmoebaNet", genotypes.AmoebaNet))
    return rows


def test_the_page_of_several_runs(tmp_path):
    path = tmp_path / "pages" / "comparison.html"
    extra = Table("Ranks", ["", "a"], [["a", "1.00"]])
    comparison.write(path, entries(), title="A <b> page", tables=[extra], pictures=[PICTURE])
    page = path.read_text()
    assert (
        "<script" not in page
        and "<link" not in page
        and "url(" not in page
        and "A &lt;b&gt; page" in page
    )
    assert all(
        link.startswith(("data:image/png", "data:image/svg+xml", "#"))
        for link in re.findall(r'(?:src|href)="([^"]{0,20})', page)
    )
    rows = {
        row[0]: row[1:]
        for row in re.findall(r'<tr><th scope="row">(.*?)</th>((?:<td>.*?</td>)+)</tr>', page)
    }
    accuracies = re.findall("<td>(.*?)</td>", "".join(rows["Test accuracy"]))
    assert accuracies == [
        "90.00\N{NARROW NO-BREAK SPACE}%",
        "91.00\N{NARROW NO-BREAK SPACE}%",
        "92.00\N{NARROW NO-BREAK SPACE}%",
        "",
    ]
    assert (
        "optim.lr" in rows and "seed" in rows and "epochs" not in rows
    )  # settings that are the same are left out
    for title in ("Loss, validation", "Learning rate of the weights", "The landscape", "Ranks"):
        assert title in page
    assert page.count(sections.image(PICTURE)) == 2 and page.count(PICTURE) == 1
    text = html.unescape(page)
    assert all(str(entry.genotype) in text for entry in entries())
    comparison.write(path, entries(), title="A <b> page", tables=[extra], pictures=[PICTURE])
    assert path.read_text() == page
    assert len(page) < 300_000


def test_names_must_differ(tmp_path):
    for wrong in ([], entries()[:1] * 2):
        with pytest.raises(ValueError, match="with names of their own"):
            comparison.write(tmp_path / "page.html", wrong)
    assert not list(tmp_path.iterdir())


@needs_browser
def test_the_pages_in_a_browser(tmp_path):
    comparison.write(tmp_path / "comparison.html", entries())
    assert_readable((tmp_path / "comparison.html").read_text(), tmp_path)
    report.page.write(
        tmp_path / "report.html",
        **_arguments(epochs=3),
        sections=[section(), section("variance", rows=30)],
    )
    assert_readable((tmp_path / "report.html").read_text(), tmp_path)
