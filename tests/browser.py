"""Pages in a headless browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)


def needs_browser(test):
    """Marks a test that opens pages in a browser: slow, and skipped where there is none."""
    skip = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
    return pytest.mark.slow(skip(test))


_ASK = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("*")].filter((e) => e.scrollWidth > e.clientWidth + 1
    && ["auto", "scroll"].includes(frame.contentWindow.getComputedStyle(e).overflowX));
  document.title = JSON.stringify({
    "width": root.clientWidth,
    "scroll": root.scrollWidth,
    "text": page.body.innerText.length,
    "unreachable": wide.filter((e) => e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 80)),
    "first": page.querySelector("a, button, summary, [tabindex='0']").textContent,
    "dangling": [...page.querySelectorAll("a[href^='#']")].map((a) => a.hash.slice(1))
      .filter((id) => !page.getElementById(id)),
    "twice": [...page.querySelectorAll("[id]")].map((e) => e.id)
      .filter((id, i, all) => all.indexOf(id) !== i),
  });
};
frame.srcdoc = SOURCE;
"""


def _dump(path, folder) -> subprocess.CompletedProcess:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/profile",
    ]
    return subprocess.run(
        [BROWSER, *flags, "--enable-logging=stderr", "--v=0", "--dump-dom", f"file://{path}"],
        capture_output=True,
        timeout=120,
        check=True,
    )


def loaded(page: str, folder) -> str:
    """The text of a page after a browser has loaded it and run what it runs."""
    path = folder / "loaded.html"
    path.write_text(page, encoding="utf-8")
    return _dump(path, folder).stdout.decode()


def look(page: str, folder, width: int) -> dict:
    """Loads a page in a frame of a width: its own width and that of what it holds, what scrolls but
    takes no focus, where the Tab key goes first, links to nowhere, ids that are not unique;
    `console` has what the browser complained of.
    """
    source = json.dumps(page).replace("</", "<\\/")
    wrapper = (
        "<!DOCTYPE html><iframe"
        f' style="width:{width}px;height:800px;border:0"></iframe><script>const SOURCE = {source};'
    )
    path = folder / "wrapper.html"
    path.write_text(f"{wrapper}{_ASK}</script>", encoding="utf-8")
    done = _dump(path, folder)
    title = re.search("<title>(.*?)</title>", done.stdout.decode())
    assert title, "the page did not load"
    facts = json.loads(html.unescape(title[1]))
    facts["console"] = [line for line in done.stderr.decode().splitlines() if ":CONSOLE" in line]
    return facts


def assert_readable(page: str, folder) -> None:
    """On a phone and on a screen nothing sticks out, what scrolls can be reached by keyboard, links
    lead somewhere.
    """
    for width in (360, 1280):
        facts = look(page, folder, width)
        assert facts["width"] == width and facts["scroll"] <= width, facts
        assert facts["text"] > 100 and not facts["unreachable"] and not facts["console"], facts
        assert not facts["dangling"] and not facts["twice"], facts
        assert facts["first"].startswith("Skip to"), facts
