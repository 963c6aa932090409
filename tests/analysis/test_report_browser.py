"""The report in a real headless Chromium."""

from __future__ import annotations

import itertools

import pytest
from test_report import few_figures, hostile_study, page  # noqa: F401

from tests.browser import chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def address(page, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def opened_once(browser, address):
    """An open report; at the end there must have been no message on the console and no request to anywhere."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("html[data-ready]", state="attached")
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    opened.close()


@pytest.fixture
def tab(opened_once):
    """The report with all switches as they were."""
    opened_once.evaluate("""() => {
        const form = document.getElementById("controls");
        form.reset();
        form.dispatchEvent(new Event("change"));
    }""")
    return opened_once


def drawn(tab):
    return tab.evaluate("document.getElementById('plot').data.length")


def test_it_loads_and_draws(tab):
    assert tab.get_attribute("html", "data-ready") == "yes"
    assert "12 runs in 4 series" in tab.text_content("#said")
    assert tab.locator("#plot svg.main-svg").count() > 0


def test_algorithms_and_staleness_switch_with_the_mouse_and_the_keyboard(tab):
    before = drawn(tab)
    tab.locator("input[name=algorithm][value=M2PO]").uncheck()
    assert "6 runs in 2 series" in tab.text_content("#said") and drawn(tab) < before
    tab.locator("input[name=staleness][value='0']").focus()
    tab.keyboard.press("Space")
    assert "3 runs in 1 series" in tab.text_content("#said")
    tab.keyboard.press("Space")
    tab.locator("#settings").check()
    assert "7 runs in 3 series" in tab.text_content("#said")


def test_quantities_change_the_axis(tab):
    tab.select_option("#quantity", "acting_fraction")
    assert tab.evaluate("document.getElementById('plot').layout.yaxis.type") == "log"
    tab.select_option("#quantity", "reward")
    assert tab.evaluate("document.getElementById('plot').layout.yaxis.title.text") == "training reward"


def test_runs_and_means_switch(tab):
    everything = drawn(tab)
    tab.locator("#means").uncheck()
    assert drawn(tab) == 12 < everything
    tab.locator("#means").check()
    tab.locator("#seeds").uncheck()
    assert drawn(tab) == 4


def test_a_curve_can_be_hovered(tab):
    tab.locator("#plot").scroll_into_view_if_needed()
    place = tab.locator("#plot .nsewdrag").first.bounding_box()
    label = tab.locator("#plot .hoverlayer .hovertext")
    spots = itertools.product((0.3, 0.5, 0.7, 0.9), (0.15, 0.3, 0.45, 0.6, 0.75))
    for pause_ms, (share, height) in itertools.product((30, 300), spots):
        tab.mouse.move(place["x"] + share * place["width"], place["y"] + height * place["height"])
        tab.wait_for_timeout(pause_ms)
        if label.count():
            return
    pytest.fail("no hover label anywhere")


def test_hostile_strings_are_inert(tab):
    tab.locator("#settings").check()
    tab.wait_for_timeout(50)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img[src=x]").count() == 0
    assert tab.locator("#plot a, #plot image").count() == 0
    names = tab.evaluate("document.getElementById('plot').data.map((trace) => trace.name)")
    assert any("learner.lr=&lt;b onmouseover" in name for name in names)
    assert "onerror='window.hacked=1'" in tab.locator("#samples pre").first.text_content()


def test_even_an_injected_script_may_not_run(browser, address):
    opened = browser.new_page()
    opened.goto(address)
    opened.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=window.hacked=1>");
    }""")
    opened.wait_for_timeout(100)
    assert opened.evaluate("window.hacked") is None
    opened.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk_without_scrolling_sideways(browser, address, width):
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(address)
    opened.wait_for_selector("html[data-ready=yes]", state="attached")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_screens_are_an_answer_a_picture_and_a_table(browser, address, width):
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.goto(address)
    places = [opened.locator(f"#findings {what}").first.bounding_box() for what in (".answer", "figure img", "table")]
    assert places[0]["y"] < places[1]["y"] < places[2]["y"] < 900 + 400 * (width < 500)
    assert places[1]["y"] + (places[1]["height"] if width > 500 else 0) < 900
    assert places[1]["width"] >= 0.8 * min(width, 800)
    shape = opened.evaluate("(() => { const i = document.querySelector('#findings img'); return i.naturalWidth; })()")
    assert (shape < 500) == (width < 500)  # a phone gets the figure of one column
    opened.close()


def test_the_keyboard_reaches_the_answer_and_every_table(browser, address):
    tab = browser.new_page()
    tab.goto(address)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the answer"
    wide = "[...document.querySelectorAll('.wide')]"
    assert tab.evaluate(f"{wide}.every((e) => e.tabIndex === 0 && e.getAttribute('aria-label'))")
    tab.close()


def test_the_legend_covers_no_curve_after_a_resize(browser, address):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(address)
    opened.wait_for_selector("html[data-ready=yes]", state="attached")
    for width in (1280, 600):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.wait_for_timeout(400)  # it is drawn again
        opened.wait_for_function("""() => {
            const [legend, drawing] = ["legend", "nsewdrag"].map(
                (name) => document.querySelector(`#plot .${name}`).getBoundingClientRect());
            return legend.bottom <= drawing.top + 2;
        }""")
    opened.close()


def test_dark_and_print(browser, address):
    opened = browser.new_page(color_scheme="dark")
    opened.goto(address)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(paper) == "rgb(22, 24, 27)"
    opened.emulate_media(media="print", color_scheme="light")
    assert opened.evaluate(paper) == "rgb(255, 255, 255)"
    assert opened.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    opened.close()


def test_without_javascript_the_figures_and_tables_are_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address)
    assert opened.locator("figure img").count() >= 2 and opened.locator("#tables table").count() >= 2
    assert not opened.locator("#controls").is_visible()
    context.close()


def test_structure_for_screen_readers(tab):
    assert tab.get_attribute("html", "lang") == "en"
    assert tab.locator("h1").count() == 1 and tab.locator("main").count() == 1
    assert tab.locator("img:not([alt]), img[alt='']").count() == 0
    assert tab.locator("th:not([scope])").count() == 0
    unlabelled = "[...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length"
    assert tab.evaluate(unlabelled) == 0
    sections = "[...document.querySelectorAll('nav a')].filter((a) => !document.querySelector(a.hash)).length"
    assert tab.evaluate(sections) == 0
