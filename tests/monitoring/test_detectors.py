"""Every detector on data that changed and on data that did not, against a direct call of its library where there is one."""

from __future__ import annotations

import json
import subprocess

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_nb import cards, commands, monitoring
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, DetectorMissing, EngineMissing, UsageError
from mlops_nb.monitoring import DriftReport, FeatureDrift, detecting, detectors, distances, engines, pages

from .conftest import Watched, flights

ONE_INSTALLATION = pytest.mark.xdist_group("alibi-detect")
FREE = [name for name in detectors.NAMES if not name.startswith("alibi-")]


def detected(name: str) -> DriftReport:
    return msgspec.convert(detectors.detect("delays", name).report, DriftReport)


def drifted(report: DriftReport) -> set[str]:
    return {found.name for found in report.features if found.is_drift}


def feature(report: DriftReport, name: str) -> FeatureDrift:
    return next(found for found in report.features if found.name == name)


def changed() -> pd.DataFrame:
    """1,000 flights that depart eight minutes later, and another third of which is B6."""
    asked = flights(1000, seed=1)
    return asked.assign(dep_delay=asked.dep_delay + 8, carrier=np.where(np.arange(1000) % 3 == 0, "B6", asked.carrier))


@pytest.mark.parametrize("name", FREE)
def test_a_planted_change_is_found_by_each_detector_that_takes_it(delays: Watched, name: str):
    delays.ask(changed())

    report = detected(name)

    taken = detectors.get(name).takes
    expected = {"numbers": {"dep_delay"}, "categories": {"carrier"}, "all": {"dep_delay", "carrier"}}[taken]
    together = detectors.get(name).looks == "all features together"
    assert drifted(report) == ({"all features together"} if together else expected)
    assert report.engine.startswith("histograms" if name == "histograms" else name)
    assert report.promise


@pytest.mark.parametrize("name", FREE)
def test_no_detector_alarms_of_requests_as_in_training(delays: Watched, name: str):
    delays.ask(flights(1000, seed=1))

    assert not drifted(detected(name))


@pytest.mark.parametrize("rows", [60, 400])
def test_distances_of_few_unchanged_rows_are_left_to_chance(delays: Watched, rows: int):
    delays.ask(flights(rows, seed=3))

    for name in ("psi", "jensen-shannon", "hellinger", "wasserstein"):
        assert not detected(name).is_drift, name


def test_wasserstein_from_counts_is_that_of_the_rows(delays: Watched):
    from scipy.stats import wasserstein_distance

    asked = changed()
    delays.ask(asked)

    rows = wasserstein_distance(delays.training.dep_delay, asked.dep_delay) / delays.training.dep_delay.std(ddof=0)

    assert feature(detected("wasserstein"), "dep_delay").statistic == pytest.approx(rows, rel=0.03)


def test_jensen_shannon_of_categories_is_scipys(delays: Watched):
    from scipy.spatial.distance import jensenshannon

    asked = changed()
    delays.ask(asked)

    shares = [side.carrier.value_counts().reindex(["AA", "B6", "UA", "WN"]) for side in (delays.training, asked)]

    assert feature(detected("jensen-shannon"), "carrier").statistic == pytest.approx(float(jensenshannon(*shares, base=2)), abs=1e-6)


def test_p_values_of_distances_hold_their_level_without_change():
    """2,000 windows of 500 rows drawn from the reference's own distribution: no more than the stated share of p-values lies below it."""
    random = np.random.default_rng(0)
    reference = np.sort(random.normal(0, 1, 5000))
    shape = _summary(reference, np.quantile(reference, np.arange(257) / 256))
    windows = [_summary(random.normal(0, 1, 500), np.array(shape.edges)) for _ in range(2000)]

    for name, measure in distances.DISTANCES.items():
        below = np.mean([measure(shape, window).p_value < 0.05 for window in windows])
        assert below <= 0.065, f"{name}: {below:.3f}"


def _summary(values: np.ndarray, edges: np.ndarray) -> distances.ColumnSummary:
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    return distances.ColumnSummary(name="x", kind="number", count=len(values), edges=edges.tolist(), counts=counts.tolist(), deviation=float(values.std()))


def test_scipys_tests_are_scipys(delays: Watched):
    from scipy.stats import anderson_ksamp, chi2_contingency, cramervonmises_2samp, ks_2samp

    asked = changed()
    delays.ask(asked)
    before, now = delays.training.distance, asked.distance
    table = pd.crosstab(np.repeat([0, 1], [5000, 1000]), np.concatenate([delays.training.carrier, asked.carrier]))

    assert feature(detected("ks"), "distance").p_value == pytest.approx(ks_2samp(before, now, method="asymp").pvalue, rel=1e-4)
    assert feature(detected("cvm"), "distance").statistic == pytest.approx(cramervonmises_2samp(before, now).statistic, rel=1e-4)
    assert feature(detected("anderson-darling"), "distance").statistic == pytest.approx(anderson_ksamp([before, now]).statistic, rel=1e-4)
    assert feature(detected("chi-squared"), "carrier").statistic == pytest.approx(chi2_contingency(table, correction=False)[0], rel=1e-4)


# ── what does not fit, or is not there ───────────────────────────────────────────────────────────────────────────────


def test_an_unknown_detector_is_told_with_the_nearest(delays: Watched):
    with pytest.raises(BadOption) as told:
        detectors.detect("delays", "wassersteyn")

    assert told.value.hint == "did you mean wasserstein?"


@ONE_INSTALLATION
def test_fishers_test_on_numbers_is_refused_before_anything_is_read(no_requests_but_numbers: Watched, alibi_detect: engines.Engine):
    with pytest.raises(BadOption, match=r"alibi-fet takes columns of two values, and late:1 has none .*dep_delay: a number"):
        detectors.detect("delays", "alibi-fet")


@pytest.fixture
def no_requests_but_numbers(workspace) -> Watched:
    watched = Watched(flights(500, seed=0)[["distance", "dep_delay"]])
    watched.deploy()
    return watched


def test_a_detector_whose_library_is_not_here_says_how_it_comes(delays: Watched, tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_ENGINES", str(tmp_path / "engines"))

    with pytest.raises(EngineMissing) as told:
        detectors.detect("delays", "alibi-ks")

    assert told.value.hint.startswith("%mlops engines install alibi-detect")


def test_every_detector_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_ENGINES", str(tmp_path / "engines"))
    listed = {one.detector.name: one for one in detectors.every()}

    assert listed["mmd"].ready and listed["mmd"].licence == "Apache-2.0"
    assert not listed["alibi-mmd"].ready and listed["alibi-mmd"].lacks == "%mlops engines install alibi-detect"


# ── alibi-detect ─────────────────────────────────────────────────────────────────────────────────────────────────────

DIRECT = """
import json, sys, numpy as np, alibi_detect.cd as cd
for job in json.load(sys.stdin):
    X, Y = (np.array(side, float).reshape(-1, 1) for side in job["sides"])
    kinds = {"alternative": "two-sided"} if job["make"] == "FETDrift" else {}
    found = getattr(cd, job["make"])(X, **kinds).predict(Y, drift_type="feature")["data"]
    print(json.dumps([float(found["distance"][0]), float(found["p_val"][0])]))
"""


@ONE_INSTALLATION
def test_alibi_detects_detectors_say_what_they_say_when_called_directly(alibi_detect: engines.Engine, delays: Watched):
    asked = flights(400, seed=1, wet=np.random.default_rng(2).random(400) < 0.6)
    asked["dep_delay"] += 4
    delays.ask(asked)
    jobs = [("alibi-tabular", "TabularDrift", "dep_delay"), ("alibi-fet", "FETDrift", "wet")]
    words = [{"make": make, "sides": [side[column].astype(float).tolist() for side in (delays.training, asked)]} for _, make, column in jobs]

    done = subprocess.run(
        [alibi_detect.python, "-c", DIRECT], input=json.dumps(words), capture_output=True, text=True, env=engines.environment_for(alibi_detect)
    )

    for (name, _, column), line in zip(jobs, done.stdout.splitlines()[-2:], strict=True):
        report = detected(name)
        found, (statistic, p_value) = feature(report, column), json.loads(line)
        assert found.is_drift and not feature(report, "distance").is_drift
        assert (found.statistic, found.p_value) == (pytest.approx(statistic, rel=1e-4), pytest.approx(p_value, rel=1e-3, abs=1e-30))


@ONE_INSTALLATION
def test_alibi_detects_classifier_tells_a_change_from_none(alibi_detect: engines.Engine, delays: Watched):
    delays.ask(flights(800, seed=1))
    assert not drifted(detected("alibi-classifier"))

    delays.deploy("2", version=2)
    delays.ask(changed(), deployment="2")
    assert detectors.detect("delays", "alibi-classifier", deployment="2").is_drift


@ONE_INSTALLATION
def test_an_online_detector_says_at_which_row_it_alarmed(alibi_detect: engines.Engine, delays: Watched):
    delays.ask(flights(300, seed=1, wet=np.arange(300) >= 150))

    report = detected("alibi-fet-online")

    assert report.is_drift and drifted(report) == {"wet"} and feature(report, "wet").summary.startswith("first alarm at row ")
    assert report.promise == "on unchanged data one false alarm in about 2,000 rows; the newest 300 are read"


@ONE_INSTALLATION
def test_an_online_detector_of_each_feature_tells_which_one_alarmed(alibi_detect: engines.Engine, delays: Watched):
    delays.ask(flights(300, seed=1).assign(dep_delay=lambda asked: asked.dep_delay + 60 * (np.arange(300) >= 150)))

    check = detectors.detect("delays", "alibi-cvm-online")
    report, shown = msgspec.convert(check.report, DriftReport), cards.as_text(check)

    assert drifted(report) == {"dep_delay"} and feature(report, "dep_delay").statistic > feature(report, "dep_delay").threshold
    assert {f.summary.partition(";")[0] for f in report.features if f.test == "CVMDriftOnline" and not f.is_drift} == {"no alarm in 300 rows"}
    assert "together" not in shown and "drift in 1 of" in shown
    assert "alpha" not in shown and "alpha" not in pages.as_page(check) and "Holm" not in shown, "its thresholds come from its run, not from a level"


@ONE_INSTALLATION
def test_what_needs_tensorflow_says_so_where_that_is_not_there(alibi_detect: engines.Engine, delays: Watched, tmp_path, monkeypatch):
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / f"alibi-detect-{alibi_detect.version}").symlink_to(alibi_detect.where)
    monkeypatch.setenv("MLOPS_ENGINES", str(tmp_path / "engines"))

    with pytest.raises(DetectorMissing, match="alibi-mmd needs tensorflow") as told:
        detectors.detect("delays", "alibi-mmd")

    assert told.value.hint == "%mlops engines install alibi-detect --with tensorflow"
    assert not next(one for one in detectors.every() if one.detector.name == "alibi-lsdd-online").ready


@pytest.mark.parametrize("rows", [3, 1000])
def test_features_that_are_judged_together_are_not_called_the_same_one_by_one(delays: Watched, rows: int):
    delays.ask(flights(rows, seed=1))

    check = detectors.detect("delays", "mmd")
    shown = cards.as_text(check)

    assert check.verdict == ("no drift" if rows == 1000 else "too few rows to tell")
    assert shown.count("✓ same") == (rows == 1000), "only of all features together"
    assert shown.count("○ not judged by itself") == len(check.report["features"]) - 1


def test_a_drift_of_all_features_together_is_not_counted_as_that_of_one(delays: Watched):
    delays.ask(changed())

    check = detectors.detect("delays", "mmd")
    report = msgspec.convert(check.report, DriftReport)

    assert report.differing == "All features together differ" and report.compared == 4
    assert "All features together differ." in pages.as_page(check)
    assert monitoring.figure(check).layout.title.text.startswith("◆ All features of delays together drift")


def test_a_distance_leaves_out_identifiers_and_columns_that_no_request_has_and_says_so(workspace):
    training, asked = (flights(rows, seed=rows).assign(id=[f"{rows}-{n}" for n in range(rows)]) for rows in (5000, 1000))
    watched = Watched(training)
    watched.deploy()
    watched.ask(asked.drop(columns="wet"))

    report = detected("psi")

    assert not report.is_drift and feature(report, "carrier").test == "psi"
    assert {found.name: found.summary for found in report.features if found.type == "not compared"} == {
        "id": "almost all values differ, as in identifiers or free text", "wet": "not in the requests",
    }  # fmt: skip


def test_features_that_a_detector_does_not_take_are_not_counted(delays: Watched):
    delays.ask(changed())

    check = detectors.detect("delays", "wasserstein")

    assert msgspec.convert(check.report, DriftReport).differing == "1 of 2 features differ: dep_delay"
    assert "drift in 1 of 2 features" in cards.as_text(check)


# ── permutation tests ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("test", [detecting._maximum_mean_discrepancy, detecting._energy])
def test_permutation_tests_hold_their_level_and_find_a_change(test):
    random = np.random.default_rng(0)
    reference = random.normal(0, 1, (100, 3))
    unchanged = [test(reference[:60], random.normal(0, 1, (60, 3))).p_value for _ in range(60)]
    moved = random.normal([0, 1, 0], 1, (60, 3))

    assert np.mean(np.array(unchanged) < 0.1) <= 0.2
    assert test(reference[:60], moved).p_value == pytest.approx(1 / (detecting.PERMUTATIONS + 1))


def test_mmd_is_the_unbiased_estimate_computed_plainly():
    random = np.random.default_rng(0)
    x, y = random.normal(0, 1, (40, 2)), random.normal(0.5, 1, (30, 2))
    both = np.vstack([x, y])
    squared = ((both[:, None] - both[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(70, 1)]))
    within = sum((side.sum() - np.trace(side)) / (len(side) * (len(side) - 1)) for side in (kernel[:40, :40], kernel[40:, 40:]))

    assert detecting._maximum_mean_discrepancy(x, y).statistic == pytest.approx(within - 2 * kernel[:40, 40:].mean(), rel=1e-9)


# ── on a line ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_chooses_the_detector_and_writes_the_report(delays: Watched, tmp_path):
    delays.ask(changed())

    check = commands.run(["drift", "delays", "--detector", "wasserstein", "--html", str(tmp_path / "drift.html")], Terminal(quiet=True))
    causes = commands.run(["causes", "delays"], Terminal(quiet=True))

    assert check.is_drift and check.report["causes"]["features"][0]["feature"] == causes.features[0].feature == "dep_delay"
    assert "--detector wasserstein" in (tmp_path / "drift.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("other", [["--window", "1d"], ["--schedule", "1d"], ["--engine", "scipy"]])
def test_what_a_detector_does_not_know_is_refused(delays: Watched, other: list[str]):
    with pytest.raises(UsageError) as told:
        commands.run(["drift", "delays", "--detector", "mmd", *other], Terminal(quiet=True))

    assert told.value.hint
