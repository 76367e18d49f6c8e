"""A workspace as it looks after some weeks of use: what the dashboard's tests look at.  Telemetry is the files a server writes."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import duckdb
import msgspec

from mlops_nb import artifacts, monitoring, store, summaries
from mlops_nb.monitoring import causes
from mlops_nb.monitoring.change_point import Beginning
from mlops_nb.settings import Workspace
from mlops_nb.store import checks, datasets, deployments, environments, events, models, runs

MARKUP = "<img src=x onerror=alert(1)> **bold** [click](javascript:alert(1)) :red[red] $x^2$"
"""Words that would do something wherever they are taken for more than words."""

FEATURES = ("dep_delay", "distance", "hour", "temp", "visib", "wind_speed", "carrier", "origin")
TRACEBACK = """Traceback (most recent call last):
  File "cell [12]", line 3, in predict
    return self.model.predict(frame[self.columns])
  File "pandas/core/frame.py", line 4108, in __getitem__
    indexer = self.columns._get_indexer_strict(key, "columns")[1]
KeyError: "['wind_gust'] not in index"
"""


def fill() -> None:
    """Put it all into the current workspace."""
    with store.writing() as tx:
        _add_data(tx)
        _add_code(tx)
        _add_models(tx)
        _add_deployments(tx)
        _add_evidence(tx)
    _write_telemetry()


def vandalise() -> None:
    """Add words that would do harm wherever they are taken for more than words: description, tags, column, feature, reason of a split, event."""
    signature = {"kind": "table", "inputs": [{"name": MARKUP, "type": "float64", "nullable": False}], "outputs": [], "sample": [{MARKUP: 1.0}]}
    with store.writing() as tx:
        version = models.ModelVersion(
            model="vandal", version=1, flavor="python", engine="python", hash="7" * 64, files=[], signature=signature, tags={MARKUP: MARKUP},
            description=MARKUP, author=MARKUP, created_at=store.now(),
        )  # fmt: skip
        models.add(tx, version)
        deployments.ensure_endpoint(tx, "vandal", author=MARKUP)
        reason = deployments.Reason(kind="exited", message=MARKUP, where=MARKUP, traceback=MARKUP, log=MARKUP, hint=MARKUP)
        _deploy(tx, "vandal", "1", 1, "failed", reason=reason, spec=deployments.DeploymentSpec(hardware=MARKUP), minutes=1)
        deployments.set_traffic(tx, "vandal", {"1": 100}, author=MARKUP, why=MARKUP)
        checks.add_drift_check(tx, drift_check(9, days=0.1, endpoint="vandal", features=(*FEATURES, MARKUP), notes=[MARKUP]))
        points = [{"batch": 1, "requests": 9, "p50_ms": 1, "p95_ms": 2, "p99_ms": 3, "rows_per_second": 9, "cpu_percent": 9, "memory_mb": 9}]
        checks.add_profile(
            tx, checks.Profile(id="vandal", endpoint="vandal", deployment="1", model="vandal", version=1, hardware=MARKUP, points=points, time=store.now())
        )
        events.record(tx, "NoteLeft", subject='=HYPERLINK("http://evil.example","open")', data={"note": MARKUP})


def ago(**time: float):
    """So long before now."""
    return store.now() - timedelta(**time)


def _add_data(tx) -> None:
    file = Workspace.current().root.parent / "rows.parquet"
    file.write_bytes(_rows()[0])
    kept = artifacts.keep(file, path="data.parquet")
    file.unlink()
    for version, rows, days in ((1, 78_000, 20), (2, 80_789, 3)):
        schema = [{"name": name, "type": "string" if name in ("carrier", "origin") else "float64", "nullable": name == "temp"} for name in FEATURES]
        profile = [
            {"column_name": name, "column_type": "DOUBLE", "min": "-3", "max": "1301", "approx_unique": 520, "avg": "12.6", "null_percentage": 2.4, "top": []}
            for name in FEATURES
        ]
        version = datasets.DatasetVersion(
            name="flights_q1", version=version, hash=f"d{version}", rows=rows, schema=schema, profile=profile, file=kept.sha256, bytes=2_113_000,
            description="Flights of January to March", author="ada", created_at=ago(days=days),
        )  # fmt: skip
        datasets.add(tx, version)
        datasets.put_summary(tx, version.hash, _rows()[1])


@cache
def _rows() -> tuple[bytes, list[summaries.ColumnSummary]]:
    """4,000 rows as they were in training, as a Parquet file and as counts."""
    chaos = random.Random(5)
    kinds = {name: "string" if name in ("carrier", "origin") else "float64" for name in FEATURES}
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(":memory:") as connection:
        lines, parquet = Path(scratch) / "rows.json", Path(scratch) / "rows.parquet"
        lines.write_bytes(b"".join(msgspec.json.encode(a_flight(chaos)) + b"\n" for _ in range(4000)))
        connection.execute(f"COPY (SELECT * FROM read_json('{lines}')) TO '{parquet}'")
        schema = [{"name": name, "type": kind} for name, kind in kinds.items()]
        return parquet.read_bytes(), summaries.of_table(connection, parquet, schema, rows=4000)


def a_flight(chaos: random.Random, *, warmer: float = 0.0) -> dict[str, object]:
    """One row of the features, as in training but for the temperature."""
    return {
        "dep_delay": chaos.expovariate(1 / 12) - 3, "distance": float(chaos.choice((200, 740, 1065, 1400, 2475))), "hour": float(chaos.randint(5, 22)),
        "temp": chaos.gauss(38 + warmer, 12), "visib": min(10.0, chaos.expovariate(1 / 30)), "wind_speed": chaos.gauss(11, 5),
        "carrier": chaos.choice(("UA", "B6", "EV", "DL")), "origin": chaos.choice(("EWR", "JFK", "LGA")),
    }  # fmt: skip


def _add_code(tx) -> None:
    packages = [("scikit-learn", "1.9.1", True), ("numpy", "2.4.6", True), ("pandas", "3.1.1", True), ("scipy", "1.17.1", False), ("joblib", "1.6.0", False)]
    for version, sklearn in ((1, "1.8.0"), (2, "1.9.1")):
        found = [environments.Package(name=n, version=sklearn if n == "scikit-learn" else v, direct=direct) for n, v, direct in packages]
        environment = environments.Environment(
            name="py311-3f2a", version=version, hash=f"e{version}", python="3.11.7", platform="linux-x86_64", interpreter="/usr/bin/python3", packages=found,
            created_at=ago(days=20),
        )  # fmt: skip
        environments.add(tx, environment)
    for number, depth in enumerate((6, 8, 12), start=1):
        cells = [
            runs.Cell(number=1, source="import pandas as pd\nfrom sklearn.ensemble import HistGradientBoostingClassifier"),
            runs.Cell(number=4, source='X = flights[FEATURES]\ny = flights["arr_delay"] > 15'),
            runs.Cell(number=7, source=f"clf = HistGradientBoostingClassifier(max_depth={depth})\nclf.fit(X, y)"),
        ]
        git = runs.GitState(commit=f"a1b2c3d4e5f{number}", branch="main", dirty=number == 3, diff="-DEPTH = 8\n+DEPTH = 12\n" if number == 3 else "")
        run = runs.Run(
            id=f"run-{number}", kind="notebook", notebook="notebooks/late_flights.ipynb", cells=cells, git=git, author="ada", host="workstation",
            python="3.11.7", started_at=ago(days=20 - number),
        )  # fmt: skip
        runs.add(tx, run)


def _add_models(tx) -> None:
    signature = {
        "kind": "table",
        "inputs": [{"name": name, "type": "string" if name in ("carrier", "origin") else "float64", "nullable": name == "temp"} for name in FEATURES],
        "outputs": [{"name": "label", "type": "int64"}, {"name": "probabilities", "type": "float32", "shape": [None, 2]}],
        "sample": [dict.fromkeys(FEATURES, 1.0)],
    }
    for number, auc in enumerate((0.71, 0.74, 0.757), start=1):
        version = models.ModelVersion(
            model="delays", version=number, flavor="sklearn", engine="onnxruntime", hash=f"{number}" * 64,
            files=[_file("model.onnx", 184_220 * number), _file("model.pkl", 97_001)],
            signature=signature, metrics={"auc": auc, "log_loss": 0.41 - 0.02 * number}, tags={"team": "ops"},
            description="Arrives more than 15 minutes late", dataset=f"flights_q1:{min(number, 2)}", environment=f"py311-3f2a:{min(number, 2)}",
            run=f"run-{number}", author="ada", trusted=True,
            conversion={"to": "onnx", "equal": True, "rows": 1000, "max_difference": 1.2e-7, "labels_differ": 0}, created_at=ago(days=19 - 6 * number),
        )  # fmt: skip
        models.add(tx, version)
    models.set_alias(tx, models.search(tx, "delays")[1], "champion", author="ada")
    script = models.ModelVersion(
        model="churn", version=1, flavor="script", engine="script", hash="9" * 64, files=[_file("entry/score.py", 812)],
        description="Bought elsewhere", author="grace", conversion={"to": "onnx", "reason": "an entry script answers"}, created_at=ago(days=2),
    )  # fmt: skip
    models.add(tx, script)


def _file(path: str, size: int) -> models.StoredFile:
    return models.StoredFile(path=path, sha256=f"{size:064x}", bytes=size)


def _add_deployments(tx) -> None:
    for name in ("churn", "delays"):
        deployments.ensure_endpoint(tx, name, author="ada")
    tx.execute("UPDATE endpoints SET created_at = created_at - INTERVAL 6 DAY")
    _deploy(tx, "delays", "1", 1, "healthy", days=6)
    _deploy(tx, "delays", "2", 2, "healthy", days=1, spec=deployments.DeploymentSpec(cpus=2, memory_mb=2048))
    reason = deployments.Reason(
        kind="exception in a request", message="KeyError: \"['wind_gust'] not in index\"", where="cell [12], line 3", traceback=TRACEBACK,
        log="loading model.pkl\nready in 0.8 s\nPOST /v2/models/delays/infer 500", hint="%mlops logs delays/3",
    )  # fmt: skip
    _deploy(tx, "delays", "3", 3, "failed", reason=reason, hours=2)
    _deploy(tx, "churn", "1", 1, "healthy", target="docker", spec=deployments.DeploymentSpec(hardware="gpu"), hours=30)
    for weights, why in (({"1": 100}, "first deployment"), ({"1": 90, "2": 10}, "try the deeper trees"), ({"1": 50, "2": 50}, "it does well")):
        deployments.set_traffic(tx, "delays", weights, author="ada", why=why)
    tx.execute("UPDATE traffic SET time = time - INTERVAL 5 DAY WHERE sequence = 1")
    tx.execute("UPDATE traffic SET time = time - INTERVAL 40 MINUTE WHERE sequence = 2")
    tx.execute("UPDATE traffic SET time = time - INTERVAL 8 MINUTE WHERE sequence = 3")
    deployments.set_traffic(tx, "churn", {"1": 100}, author="grace", why="first deployment")


def _deploy(tx, endpoint, name, version, status, *, reason=None, target="local", spec=None, **age) -> None:
    deployment = deployments.Deployment(
        endpoint=endpoint, name=name, model=endpoint, version=version, target=target, spec=spec or deployments.DeploymentSpec(), wanted="running", generation=1,
        status="starting", created_at=ago(**age), changed_at=ago(**age), author="ada",
    )  # fmt: skip
    deployments.put(tx, deployment)
    deployments.observe(tx, deployment, status=status, reason=reason)
    what = "DeploymentFailed" if status == "failed" else "DeploymentHealthy"
    events.record(tx, what, subject=deployment.ref, data={"model": deployment.model_ref, "target": target})


def _add_evidence(tx) -> None:
    for number, days in enumerate((9, 7, 5, 3, 1)):
        checks.add_drift_check(tx, drift_check(number, days=days))
    grid = ((1, 1.1, 1.6, 2.4, 880), (32, 2.9, 3.8, 5.0, 10_700), (256, 12.0, 14.9, 18.3, 20_900))
    for name, factor, hardware in (("1", 1.0, "cpu · 2 cores"), ("2", 1.6, "cpu · 2 cores"), ("2", 0.9, "cpu · 8 cores")):
        points = [
            {"batch": batch, "requests": 500, "p50_ms": p50 * factor, "p95_ms": p95 * factor, "p99_ms": p99 * factor, "rows_per_second": rate / factor,
             "cpu_percent": 94.0, "memory_mb": 118 * factor + batch / 10}
            for batch, p50, p95, p99, rate in grid
        ]  # fmt: skip
        told = {"endpoint": "delays", "deployment": name, "model": "delays", "version": int(name), "hardware": hardware}
        checks.add_profile(tx, checks.Profile(id=f"profile-{name}-{factor}", **told, points=points, time=ago(hours=5)))
    for number in range(70):
        events.record(tx, "ModelRegistered", subject=f"nightly:{number + 1}", source="/mlops", data={"tags": {"run": str(number)}})
    events.record(tx, "DatasetDriftDetected", subject="delays", data={"features": ["temp", "hour"]})
    events.record(tx, "AliasSet", subject="delays:2", data={"alias": "champion"})


def drift_check(
    number: int, *, days: float, endpoint: str = "delays", features=FEATURES, notes=("visib has 14 values never seen in training",)
) -> checks.DriftCheck:
    """A check in which the later months' temperature and hour differ more and more."""
    chaos = random.Random(number)
    found = [_feature(name, number, chaos) for name in features]
    report = monitoring.DriftReport(
        is_drift=number >= 1, engine="scipy 1.17.1", alpha=0.01, correction="Holm", notes=list(notes),
        reference=monitoring.Compared(rows=78_000, compared=50_000, dataset="flights_q1:1"),
        window=monitoring.Compared(rows=4_200, compared=4_200, since=ago(days=days + 1), until=ago(days=days)),
        features=sorted(found, key=lambda feature: not feature.is_drift), quality=list(_findings(number)), causes=_causes(number, days),
    )  # fmt: skip
    return checks.DriftCheck(
        id=f"check-{number}", endpoint=endpoint, deployment="1" if number % 2 else None, dataset="flights_q1:1", engine="scipy", is_drift=number >= 1,
        report=msgspec.to_builtins(report), time=ago(days=days),
    )  # fmt: skip


def _findings(number: int) -> Iterator[monitoring.Finding]:
    """A sensor that stuck, from the third check on."""
    if number >= 2:
        yield monitoring.Finding(feature="visib", kind="stuck", is_alarm=True, by_chance=False, words="always 10, which it never was in training")
        yield monitoring.Finding(feature="carrier", kind="new categories", share=0.004, threshold=0.01, words="'HA' in 0.4 % of the rows")


def _causes(number: int, days: float) -> dict[str, object]:
    """Why, of the last check."""
    if number < 4:
        return {}
    began = Beginning(time=ago(days=days + 2), low=ago(days=days + 3), high=ago(days=days + 1))
    moved = causes.Changed(feature="temp", effect=0.48, summary="mean 38.1 → 67.1", began=began)
    example = causes.Example(request="r17", row=0, time=ago(days=days), values={"temp": 81.5})
    loss = causes.Loss(metric="accuracy", before=0.81, since=0.74, low=0.72, high=0.76, how="measured on 812 labels")
    return msgspec.to_builtins(causes.Causes(endpoint="delays", check=f"check-{number}", is_drift=True, features=[moved], examples=[example], losses=[loss]))


def _feature(name: str, number: int, chaos: random.Random) -> monitoring.FeatureDrift:
    hit = (name == "temp" and number >= 1) or (name == "hour" and number >= 3)
    p = 1e-12 if hit else chaos.uniform(0.1, 0.9)
    shift = 0.15 + number / 12 if hit else chaos.uniform(0.005, 0.03)
    if name in ("carrier", "origin"):
        kind, summary = ("category", "chi-squared", "total variation"), "shares as before"
        histogram = {"categories": ["EWR", "JFK", "LGA", None], "reference": [0.36, 0.33, 0.29, 0.02], "window": [0.35, 0.34, 0.29, 0.02]}
    else:
        kind, summary = ("number", "Kolmogorov–Smirnov", "Kolmogorov distance"), f"mean 38.1 → {38.1 + 60 * shift:.1f}"
        bell = [math.exp(-(((x - 10) / 4) ** 2)) for x in range(20)]
        moved = [math.exp(-(((x - 10 - 8 * shift) / 4) ** 2)) for x in range(20)]
        histogram = {"edges": [5 * x for x in range(21)], "reference": [b / sum(bell) for b in bell], "window": [m / sum(moved) for m in moved]}
    return monitoring.FeatureDrift(
        name=name, type=kind[0], test=kind[1], statistic=shift, p_value=p / 9, p_adjusted=p, effect=shift, effect_name=kind[2], minimum_effect=0.1,
        is_drift=hit, missing_reference=0.02, summary=summary, histogram=histogram,
    )  # fmt: skip


def _write_telemetry() -> None:
    """One answered request every two seconds for the last 50 minutes, moved from delays/1 to delays/2 as the split says."""
    chaos = random.Random(11)
    lines: dict[tuple[str, str], list[bytes]] = {("delays", "1"): [], ("delays", "2"): [], ("churn", "1"): []}
    for second in range(50 * 60, 0, -2):
        share = 0.0 if second > 40 * 60 else 0.1 if second > 8 * 60 else 0.5
        name = "2" if chaos.random() < share else "1"
        lines["delays", name].append(_line(chaos, second, slow=1.5 if name == "2" else 1.0, failing=name == "2"))
        if second % 10 == 0:
            lines["churn", "1"].append(_line(chaos, second, slow=0.6, failing=False))
    for (endpoint, name), written in lines.items():
        folder = Workspace.current().telemetry / f"endpoint={endpoint}" / f"deployment={name}"
        folder.mkdir(parents=True)
        half = len(written) // 2
        (folder / "closed-1700000000000000000.jsonl").write_bytes(b"".join(written[:half]))
        (folder / "live-999999.jsonl").write_bytes(b"".join(written[half:]))


def _line(chaos: random.Random, second: float, *, slow: float, failing: bool) -> bytes:
    bad = failing and chaos.random() < 0.03
    flight = a_flight(chaos, warmer=17 * (second < 25 * 60))
    row = {
        "time": ago(seconds=second + chaos.random()).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "id": f"r{second}", "status": 500 if bad else 200,
        "latency_ms": slow * (2.0 + chaos.expovariate(1 / 0.9)), "rows": 1,
        "inputs": {name: [value] for name, value in flight.items()}, "outputs": {"label": [0]}, "error": "ValueError: wind_gust" if bad else None,
    }  # fmt: skip
    return msgspec.json.encode(row) + b"\n"
