"""The report: everything is in one file, and what it says is what was recorded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fire_rl.results.report import write_report
from fire_rl.results.store import RunDirectory, run_path

RESET, TOTAL = 1_250_000, 2_500_000


def record(
    out: Path, method: str, seed: int, height: float, state: str = "finished", total: int = TOTAL
) -> None:
    env = "atari/Asterix"
    with RunDirectory(run_path(out, "dqn", env, method, seed)) as run:
        run.create({"agent": {"name": "dqn"}, "env": env, "method": {"name": method}, "seed": seed})
        for step in range(50_000, total + 1, 50_000):
            clock = {"agent_steps": step, "env_steps": 4 * step, "updates": step}
            run.append("episodes", {**clock, "return": height, "length_agent_steps": 50_000})
            if step == RESET and method != "none":
                run.append("events", {**clock, "method": method, "options": {}})
        run.write_status(state=state, agent_steps=total, total_agent_steps=TOTAL, message="out of <memory>")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        record(tmp_path / "runs", "none", seed, 1_000.0)
        record(tmp_path / "runs", "fire", seed, 1_500.0 + 500 * seed)
    record(tmp_path / "runs", "full-reset", 1, 1_800.0)
    record(tmp_path / "runs", "full-reset", 2, 1_800.0, state="failed", total=1_500_000)
    return tmp_path / "runs"


class Attributes(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_says_what_was_recorded_and_loads_nothing(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)  # as where plotly is not installed
    page = write_report(runs).read_text()
    parser = Attributes()
    parser.feed(page)
    assert parser.loaded
    assert all(link.startswith("data:image/svg+xml;base64,") for link in parser.loaded)
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?http", page)
    text = " ".join("".join(parser.text).split())
    assert "8 runs (7 finished, 1 failed): 1 environment, 3 methods, 3 seeds" in text
    assert "2,500 [2,000, 3,000]" in page  # FIRE's mean over seeds of 2,000, 2,500, 3,000
    assert "FIRE on Asterix: ours 2,500 [2,000, 3,000] (3 seeds, 2,500,000 agent steps), paper 2,2" in text
    assert "full-reset/s2: failed at agent step 1,500,000 of 2,500,000 (out of <memory>)" in text
    assert "dqn atari/Asterix full-reset: no run with seed 3" in text
    assert "Fewer than three seeds" in text
    assert "<memory>" not in page


def test_interactive_curves_hold_the_means(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = SimpleNamespace(get_plotlyjs=lambda: "/* plotly */")
    monkeypatch.setitem(sys.modules, "plotly.offline", stub)
    page = write_report(runs).read_text()
    assert "/* plotly */" in page
    found = re.search(r'<script type="application/json" id="panels">(.*?)</script>', page)
    assert found is not None
    (panel,) = json.loads(found[1])
    lines: dict[tuple[str, bool], Any] = {
        (line["method"], line["published"]): line for line in panel["lines"]
    }
    assert panel["resets"] == [RESET]
    assert lines["fire", False]["mean"] == [2_500] * len(lines["fire", False]["x"])
    assert lines["fire", False]["x"][0] > RESET
    assert lines["none", True]["x"][-1] == TOTAL  # the paper's
    assert page.count('type="checkbox"') == 3


def test_the_page_works_in_a_browser(runs: Path, tmp_path: Path) -> None:
    """Chromium renders it without an error on the console, and hiding a method hides its lines."""
    pytest.importorskip("plotly.offline")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    script = """<script>
        const shown = () => document.querySelectorAll("#panel0 .scatterlayer .trace").length;
        const wait = () => new Promise(done => setTimeout(done, 1500));
        (async () => {
            await wait();
            const before = shown();
            document.querySelector('.methods input[value="fire"]').click();
            await wait();
            document.title = `lines ${before} ${shown()}`;
        })();
    </script>"""
    page = write_report(runs)
    page.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>lines (\d+) (\d+)</title>", done.stdout)
    assert title is not None
    before, after = map(int, title.groups())
    assert 0 < after < before


def test_bad_places_are_said_in_one_sentence(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="no run is recorded below"):
        write_report(tmp_path / "empty")
    with pytest.raises(ValueError, match="cannot write the report"):
        write_report(runs, tmp_path / "file" / "report.html")
