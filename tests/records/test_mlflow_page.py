"""`python -m harness.ui` in a real headless Chromium: a real MLflow server, and what its pages show first."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.tracking import sync, ui
from tests.browser import chromium
from tests.conftest import ROOT
from tests.records.folders import make_run, make_sweep

pytestmark = pytest.mark.browser
LONG = "m2po-s256-seed1-with-a-name"
ADDRESS = re.compile(r"http://\S+viewStateShareKey=lagrange\S+")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[str]:
    """What `python -m harness.ui` prints over a mirrored sweep, while it serves."""
    runs = tmp_path_factory.mktemp("served")
    shutil.copy(database, runs / "mlflow.db")
    cells, swept = [], []
    for name, lr in ((LONG, 3e-5), ("b", 1e-4)):
        config = {"choices": {"algo": "m2po"}, "staleness": 4, "learner": {"lr": lr}}
        cells.append(make_run(runs, name, config=config))
        swept.append(["algo=m2po", f"learner.lr={lr}", "updates=25"])
    make_sweep(runs, "rates", cells, swept)
    assert sync.main([str(runs)]) == 0
    served = subprocess.Popen(
        [sys.executable, "-m", "harness.ui", "--runs", str(runs), "--port", str(ui._free_port())],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert served.stdout is not None
    printed = "".join(served.stdout.readline() for _ in range(2))
    yield ADDRESS.findall(printed)[0]
    served.send_signal(signal.SIGTERM)  # as Ctrl-C does, it ends MLflow too
    assert served.wait(120) == 0


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(60_000)
        yield opened


def test_the_first_columns_are_accuracy_algorithm_staleness_swept_keys_updates(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(f"text={LONG}")
    if closes := page.query_selector_all("[data-component-id='mlflow.assistant.chat_panel.close']"):
        closes[0].click()
        page.wait_for_function("""() => [...document.querySelectorAll(".ag-header-cell")]
            .filter((cell) => cell.innerText.trim() && cell.getBoundingClientRect().x + 60 < 1400).length >= 7""")
    headers = page.query_selector_all(".ag-header-cell")
    seen = sorted((cell.bounding_box()["x"], cell.inner_text()) for cell in headers if cell.inner_text().strip())
    names = [name for _, name in seen if name != "Created"]
    assert names[:6] == ["Run Name", "test/sampled_accuracy", "algorithm", "staleness", "learner.lr", "updates"]
    assert seen[6][0] + 60 < 1400  # on the screen
    cut = "link => link.scrollWidth > link.clientWidth"
    assert not page.eval_on_selector(f"a:has-text('{LONG}')", cut)


def test_the_first_charts_are_accuracy_and_masked_fraction(page: Any, address: str) -> None:
    page.goto(address + "&compareRunsMode=CHART")
    page.reload()
    page.wait_for_selector("text=First look")
    area = "document.querySelector(\"[data-testid='experiment-view-compare-runs-chart-area']\").innerText"
    page.wait_for_function(f"{area}.includes('masked_fraction')")
    cards = page.evaluate(area)
    assert cards.index("First look") < cards.index("test/sampled_accuracy") < cards.index("masked_fraction")


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ui.main(["--runs", str(tmp_path), "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err
    assert ui.main(["--runs", str(tmp_path / "none"), "--port", "0"]) == 1
    assert "start with make demo" in capsys.readouterr().err
