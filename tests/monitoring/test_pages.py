"""A drift report as one file: small, opened without a network or an error, and inert whatever names say."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from bench import reporting
from mlops_nb import commands, monitoring, settings, store
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption
from mlops_nb.monitoring import DriftReport, causes, detectors, pages
from mlops_nb.monitoring.reports import Compared, FeatureDrift, Finding
from mlops_nb.store import checks
from mlops_nb.store.checks import DriftCheck

from .conftest import Watched, flights

NASTY = "<img src=x onerror=alert(1)>\"'&</style><script>alert(2)</script>"


def wide(columns: int, *, name: str = "sensor") -> DriftCheck:
    """A check of so many features, each with words and a histogram, as a million rows would have."""
    random = np.random.default_rng(0)

    def shares() -> list[float]:
        return random.dirichlet(np.ones(30)).tolist()

    features = [
        FeatureDrift(
            name=f"{name} {n}", type="number", test="Kolmogorov–Smirnov", p_adjusted=0.5, effect=0.01, minimum_effect=0.03, is_drift=n < 3,
            summary="mean 1 → 2", histogram={"edges": np.linspace(-3, 3, 31).tolist(), "reference": shares(), "window": shares()},
        )
        for n in range(columns)
    ]  # fmt: skip
    side = Compared(rows=1_000_000, compared=1_000_000, dataset="flights:1")
    quality = [Finding(feature=name, kind="stuck", is_alarm=True, words=f"{name} stuck at 3")]
    report = DriftReport(is_drift=True, engine="histograms", reference=side, window=side, alpha=0.01, correction="Holm", features=features, quality=quality)
    return DriftCheck(id="c", endpoint="delays", dataset="flights:1", engine="histograms", is_drift=True, report=msgspec.to_builtins(report), time=store.now())


def test_a_hundred_features_open_in_a_browser_without_a_network_an_error_or_five_megabytes(browser: Browser, tmp_path: Path):
    file = pages.save(wide(100), tmp_path / "drift.html")

    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(file.as_uri())

    assert file.stat().st_size < 1_000_000
    expect(page.get_by_role("heading", level=1)).to_have_text("◆ delays has drifted")
    assert page.locator("details").count() == page.locator("svg").count() == 100
    assert page.locator("svg").first.is_visible() and not page.locator("svg").last.is_visible()
    page.locator("summary").last.click()
    expect(page.locator("svg").last).to_be_visible()
    assert complaints == []
    context.close()


def test_the_command_writes_the_report_of_a_hundred_columns_of_real_requests_which_opens_without_a_network(browser: Browser, tmp_path: Path):
    file = tmp_path / "drift.html"
    with settings.using(tmp_path / "workspace"):
        reporting.watched(100)
        reporting.asked(20_000, 100, 8)
    _, told = reporting.made(tmp_path / "workspace", file)

    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(file.as_uri())

    assert file.stat().st_size < 1_000_000
    assert {feature["name"] for feature in told["features"] if feature["is_drift"]} == {"f0", "f2"}
    expect(page.get_by_text("2 of 100 features differ: ")).to_be_visible()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert page.locator("svg").count() == 100
    context.close()


def test_names_that_are_markup_do_nothing(browser: Browser, tmp_path: Path):
    check = wide(2, name=NASTY)
    found = {"features": [{"feature": NASTY, "effect": 0.5, "began": None}], "losses": [], "notes": [NASTY]}
    found["segments"] = [{"feature": NASTY, "segment": NASTY, "kind": "moved", "rows": 0.1, "inside": 0.5, "outside": 0.0}]
    found["examples"] = [{"request": NASTY, "row": 0, "time": "2026-01-01T00:00:00Z", "values": {NASTY: NASTY}}]
    check = msgspec.structs.replace(check, report=check.report | {"causes": found})

    page = browser.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto(pages.save(check, tmp_path / "nasty.html").as_uri())

    assert dialogs == [] and page.locator("img, script").count() == 0
    expect(page.get_by_text(NASTY).first).to_be_visible()
    page.close()


def test_a_report_says_verdict_promise_cause_and_how_to_do_it_again(delays: Watched, tmp_path: Path):
    asked = flights(2000, seed=1)
    delays.ask(asked.assign(dep_delay=asked.dep_delay + 15 * (asked.carrier == "UA")), batch=20)
    check = causes.with_causes(monitoring.check_drift("delays"))

    text = words(pages.save(check, tmp_path / "drift.html"))

    for said in (
        "◆ delays has drifted", "1 of 4 features differ: dep_delay.", "at most one false alarm in 30 days", "carrier = UA", "Requests that show it",
        "flights:1 (training data), 5,000 rows", "%mlops drift delays --dataset flights:1 --since",
    ):  # fmt: skip
        assert said in text, said


def test_a_report_beside_past_requests_is_done_again_beside_them_and_one_beside_a_season_not_at_all(delays: Watched, tmp_path: Path):
    now = store.now()
    for days in (0, 7):
        delays.ask(flights(500, seed=days), at=now - timedelta(days=days, minutes=5))
    past = monitoring.check_drift("delays", reference="last-week", since=now - timedelta(hours=1))

    line = re.search(r"Again %mlops (.*)", words(pages.save(past, tmp_path / "past.html")))
    again = commands.run(shlex.split(line[1]), Terminal(quiet=True))

    assert (again.dataset, again.report["reference"]["rows"]) == (past.dataset, 500)
    season = monitoring.check_drift("delays", reference="same-weekday", since=now - timedelta(hours=1))
    assert "Again" not in words(pages.save(season, tmp_path / "season.html"))


def test_a_report_is_done_again_by_the_windows_and_the_budget_that_were_said(delays: Watched, tmp_path: Path):
    delays.ask(flights(1000, seed=1))
    asked = {"window": "500", "budget": "2/60d", "every_seconds": 21_600.0, "effect": 0.2}
    first = monitoring.check_drift("delays", since=store.now() - timedelta(hours=1), **asked)

    line = re.search(r"Again %mlops (.*)", words(pages.save(first, tmp_path / "drift.html")))
    again = commands.run(shlex.split(line[1]), Terminal(quiet=True))

    assert "--window 500 --budget 2/60d --every 21600s --effect 0.2" in line[1]
    told = [msgspec.convert(check.report, DriftReport) for check in (first, again)]
    first_told, again_told = ((one.alpha, one.promise, one.spans, one.features[0].minimum_effect) for one in told)
    assert first_told == again_told and first_told[3] == 0.2 and "2 false alarms in 60 days of 240 checks" in first_told[1]


def test_a_detectors_report_is_done_again_by_that_detector(delays: Watched, tmp_path: Path):
    delays.ask(flights(1000, seed=1))

    text = words(pages.save(detectors.detect("delays", "psi"), tmp_path / "drift.html"))

    assert "● delays has not drifted" in text and "--detector psi" in text


def test_a_folder_that_is_not_there_is_told_and_nothing_written(tmp_path: Path):
    with pytest.raises(BadOption, match="there is no folder"):
        pages.save(wide(1), tmp_path / "nowhere" / "drift.html")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told_before_anything_is_compared(delays: Watched, tmp_path: Path):
    delays.ask(flights(100, seed=1))
    with pytest.raises(BadOption, match="there is no folder"):
        commands.run(["drift", "delays", "--html", str(tmp_path / "nowhere" / "drift.html")], Terminal(quiet=True))
    with store.reading() as tx:
        assert checks.drift_checks(tx, "delays") == []


def words(file: Path) -> str:
    """What a reader sees."""
    import html

    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", file.read_text(encoding="utf-8"), flags=re.DOTALL))).replace(" .", ".")


def test_a_report_is_small_also_where_categories_are_whole_documents(workspace, tmp_path: Path):
    documents = np.array([f"{place} {'word ' * 1000}" for place in range(20)])
    training, asked = (flights(1000, seed=seed).assign(carrier=documents[np.arange(1000) % (seed + 10)]) for seed in (0, 10))
    watched = Watched(training)
    watched.deploy()
    watched.ask(asked, batch=100)

    file = pages.save(causes.with_causes(monitoring.check_drift("delays")), tmp_path / "drift.html")

    assert "new category '10 word" in words(file) and file.stat().st_size < 60_000


def test_categories_are_drawn_with_their_names(delays: Watched):
    delays.ask(flights(1000, seed=1).assign(carrier="HA"))

    page = pages.as_page(monitoring.check_drift("delays"))

    assert "<title>HA: 0 → 100.0%</title>" in page
