"""`make docs`: the pages build strictly, open from disk and are searched there; the README's links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.conftest import ROOT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
QUESTIONS = ("first-run", "my-model-and-data", "my-own", "read-a-report", "at-scale", "trust")
ONE_SCREEN = 45  # lines


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=project, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the docs extra (make setup-dev)")
    folder = tmp_path_factory.mktemp("pages") / "site"
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_has_a_page_for_each_question_and_the_reference(site: Path) -> None:
    assert all((site / f"start/{name}.html").is_file() for name in QUESTIONS)
    reference = (site / "api/algorithms.html").read_text()
    assert "algorithms.m2po.M2PO" in reference and "<code>logp_behaviour</code>: [B,T]" in reference
    assert "analysis.load" in (site / "api/analysis.html").read_text()


def test_a_page_of_ours_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+stylesheet[^>]+https?:")
    assert [page for page in site.rglob("*.html") if fetched.search(page.read_text())] == []


def test_no_list_or_table_is_shown_as_its_source(site: Path) -> None:
    """What continues an item of a list stands four spaces in, and a list has an empty line before it."""
    source = re.compile(r"^(?:<p>)?(?:- \S|\| |\|-)", re.MULTILINE)
    code = re.compile(r"<(pre|script|style)\b.*?</\1>", re.DOTALL)
    pages = {page: code.sub("", page.read_text()) for page in site.rglob("*.html") if page != site / "study/index.html"}
    assert {page.name: found[0] for page, text in pages.items() if (found := source.search(text))} == {}


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the docs extra (make setup-dev)")
    (tmp_path / "docs").mkdir()
    for name in ("hooks.py", "site.css", "search-from-disk.js"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    settings = re.sub(r"  - mkdocstrings:.*?(?=markdown_extensions)", "", settings, flags=re.S)
    (tmp_path / "mkdocs.yml").write_text(settings)
    for page, said in (
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](index.md#nowhere)", "#nowhere"),
        ("[x](../harness/nowhere.py)", "nowhere.py"),
    ):
        (tmp_path / "docs/index.md").write_text(f"# Here\n\n{page}\n")
        built = build(tmp_path, tmp_path / "site")
        assert built.returncode != 0 and said in built.stderr


@pytest.mark.browser
def test_the_pages_are_searched_from_disk(site: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "start/trust.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("staleness")
        page.wait_for_selector(".md-search-result__item", timeout=60_000)
        assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


def test_the_readme_is_one_screen_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= ONE_SCREEN
    targets = [target for target in LINK.findall(text) if not target.startswith("http")]
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []
