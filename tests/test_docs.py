"""The documentation holds: its code runs, its links lead somewhere, its pages are listed."""

import doctest
import io
import re
import runpy
import sys
from pathlib import Path

import pytest
from rich.console import Console

from symconv.cost import table
from symconv.cost.show import show

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINKING = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def run(text, name):
    """Failures and examples of the >>> blocks of a text."""
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return result.failed, result.attempted, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_code_on_the_page_runs(page):
    failed, attempted, report = run(page.read_text(), page.name)
    assert failed == 0, report
    assert attempted == page.read_text().count(">>> ")


def test_wrong_code_on_a_page_would_be_seen():
    assert run(">>> 1 + 1\n3\n", "wrong")[0] == 1


def broken(page, text):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if "://" not in link]
    return [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    assert broken(page, page.read_text()) == []


def test_a_broken_link_would_be_seen():
    assert broken(DOCS / "index.md", "[a](structure.md) [b](gone.md#x) [c](https://d.e)") == [
        "gone.md"
    ]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


def test_the_tables_of_costs_are_those_that_are_printed():
    """The pasted tables of cost.md and boundaries.md, line by line."""
    page = io.StringIO()
    show(table((1, 280, 320), (1, 2)), None, Console(file=page, width=80, highlight=False))
    printed = {line.rstrip() for line in page.getvalue().splitlines()}
    for name in ("cost.md", "boundaries.md"):
        (pasted,) = re.findall(r"```text\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
        assert len(pasted.splitlines()) > 5
        assert set(pasted.splitlines()) <= printed, name


def test_the_report_of_the_audit_is_the_one_that_is_printed():
    """The pasted report of audit.md, line by line but for rounding and the widths that it takes."""
    text = (DOCS / "audit.md").read_text()
    (pasted,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    for example in doctest.DocTestParser().get_examples(text[: text.index("```text")]):
        exec(example.source, names)
    report = str(names["report"])
    assert len(report.splitlines()) > 40
    # rounding that is 0 on one machine and 1e-16 on another takes another width
    alike = report.count("e-1") == pasted.count("e-1")
    for line, shown in zip(report.splitlines(), pasted.splitlines(), strict=True):
        same = line == shown if alike else line.split() == shown.split()
        assert same or "e-1" in line + shown


def test_the_figures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["figures.py", "--out", str(tmp_path)])
    runpy.run_path(str(DOCS / "figures.py"), run_name="__main__")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "img").iterdir()}
