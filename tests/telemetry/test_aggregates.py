"""Counts by stretches of a minute to a day give the answers that the rows would."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from mlops_nb import telemetry
from mlops_nb.splits import COPY_MARK
from mlops_nb.telemetry import aggregates, labels, rows

BEGIN = datetime.now(UTC).replace(hour=21, minute=17, second=23, microsecond=451_000) - timedelta(days=4)
LASTS = timedelta(hours=52, minutes=5)


def lines_of_days(recorded, count: int, *, seed: int = 3) -> list[str]:
    chance = random.Random(seed)
    moments = sorted(BEGIN + chance.random() * LASTS for _ in range(count))
    return [
        recorded.line(
            time=moment,
            id=f"{seed}-{n}{COPY_MARK if chance.random() < 0.1 else ''}",
            status=chance.choice([200] * 20 + [400, 422, 500, 503]),
            latency_ms=chance.lognormvariate(1.5, 0.8),
            rows=chance.randint(0, 4),
            inputs=None,
            outputs=None,
        )
        for n, moment in enumerate(moments)
    ]


@pytest.fixture
def three_days(recorded, record) -> None:
    """Two deployments of files that begin and end anywhere, compacted in two goes, and some lines that are not."""
    other = record("delays", "2")
    for number, deployment in enumerate((recorded, other)):
        lines = lines_of_days(deployment, 1200, seed=number)
        for part in range(3):
            deployment.close(lines[part * 350 : part * 350 + 350], minutes_ago=60 - part)
        telemetry.compact()
        deployment.close(lines[1050:1100], minutes_ago=1)
        telemetry.compact()
        deployment.append(lines[1100:])


WINDOWS = [
    (BEGIN, None),
    (BEGIN + timedelta(hours=1, seconds=11), BEGIN + timedelta(hours=43, microseconds=7)),
    (BEGIN + timedelta(minutes=3), BEGIN + timedelta(minutes=3, seconds=20)),
    (BEGIN.replace(minute=0, second=0, microsecond=0), BEGIN.replace(minute=0, second=0, microsecond=0) + timedelta(days=1)),
    (BEGIN + timedelta(minutes=1), BEGIN + timedelta(hours=3)),
]


def slowly(since: datetime, until: datetime | None) -> list[dict]:
    found = telemetry.requests("delays", since=since, until=until, most=100_000)
    return [row for row in found if not row["id"].endswith(COPY_MARK)]


@pytest.mark.parametrize(("since", "until"), WINDOWS)
def test_counts_are_those_of_the_rows_whatever_the_window(three_days, since: datetime, until: datetime | None) -> None:
    wanted = slowly(since, until)
    by_deployment = Counter(row["deployment"] for row in wanted)
    wrong = Counter(row["deployment"] for row in wanted if row["status"] >= 400)

    counted = telemetry.counted("delays", since=since, until=until)

    assert telemetry.count("delays", since=since, until=until) == len(wanted)
    assert {name: one.requests for name, one in counted.items()} == by_deployment
    assert {name: one.errors for name, one in counted.items() if one.errors} == wrong
    hours = Counter(row["time"].replace(minute=0, second=0, microsecond=0) for row in wanted)
    assert telemetry.hourly("delays", since=since, until=until) == hours


@pytest.mark.parametrize("seconds", [10, 60, 900, 7200, 86_400, 0.5])
def test_traffic_is_that_of_the_rows_with_quantiles_right_to_half_a_percent(three_days, seconds: float) -> None:
    since, until = WINDOWS[1]
    wanted: dict[tuple, list[dict]] = {}
    for row in slowly(since, until):
        stretch = datetime.fromtimestamp(row["time"].timestamp() // seconds * seconds, UTC)
        wanted.setdefault((stretch, row["deployment"]), []).append(row)

    found = telemetry.traffic("delays", since=since, until=until, bucket_seconds=seconds)

    assert [(row["time"], row["deployment"]) for row in found] == sorted(wanted)
    for row in found:
        rows_of_it = wanted[row["time"], row["deployment"]]
        latencies = sorted(one["latency_ms"] for one in rows_of_it)
        assert row["requests"] == len(rows_of_it)
        assert row["errors"] == sum(one["status"] >= 400 for one in rows_of_it)
        assert row["rows"] == sum(one["rows"] for one in rows_of_it)
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("p999_ms", 0.999)):
            rank = -int(-share * len(latencies) // 1)
            assert row[name] == pytest.approx(latencies[max(rank, 1) - 1], rel=0.005)


def test_most_of_a_window_is_read_from_the_longest_stretches() -> None:
    since, until = WINDOWS[1]
    cut = aggregates.whole_stretches(since, until, None)

    assert list(dict.fromkeys(seconds for seconds, _, _ in cut)) == [0, *aggregates.LENGTHS]
    assert sum(((end or until) - (begin or since) for _, begin, end in cut), timedelta()) == until - since
    assert [seconds for seconds, _, _ in aggregates.whole_stretches(since, None, 900)] == [0, 60, 300, 900]
    assert aggregates.whole_stretches(since, until, 10) == [(0, since, until)]
    assert aggregates.whole_stretches(None, None, None) == [(86_400, None, None)]


def test_what_is_counted_once_is_read_from_the_counts_and_never_from_the_rows(recorded) -> None:
    recorded.close(lines_of_days(recorded, 200), minutes_ago=5)
    telemetry.compact()
    midnight = BEGIN.replace(hour=0, minute=0, second=0, microsecond=0)
    before = telemetry.count("delays", since=midnight)

    for path in recorded.parquet():
        path.write_bytes(b"no rows any more")

    assert telemetry.count("delays", since=midnight) == before > 150


def test_telemetry_older_than_counts_is_counted_at_the_next_compaction_once(three_days, recorded) -> None:
    since, _ = WINDOWS[0]
    before = telemetry.totals("delays", since=since)
    shutil.rmtree(recorded.folder / "aggregates")  # as before there were any, and as in a copy that left them out

    def without_rate() -> list[dict]:
        return [{name: value for name, value in row.items() if name != "requests_per_second"} for row in telemetry.totals("delays", since=since)]

    assert without_rate() == [{name: value for name, value in row.items() if name != "requests_per_second"} for row in before]
    assert telemetry.compact().aggregated == len(recorded.parquet())
    assert telemetry.compact() == telemetry.Compaction()
    assert without_rate() == [{name: value for name, value in row.items() if name != "requests_per_second"} for row in before]


def test_each_file_has_its_counts_and_no_counts_are_without_their_file(recorded, workspace) -> None:
    workspace.root.joinpath("config.toml").write_text("capture_days = 7\n")
    recorded.close(recorded.lines(2, time=datetime.now(UTC) - timedelta(days=8)), minutes_ago=8 * 24 * 60)
    for minutes in (300, 290):
        recorded.close(recorded.lines(2, time=datetime.now(UTC) - timedelta(days=1)), minutes_ago=minutes)
        telemetry.compact()
    for kind in ("aggregates", "samples"):
        (recorded.folder / kind / "17.parquet").write_bytes(b"left behind")

    telemetry.compact()

    assert len(recorded.parquet()) == 1
    for kind in ("aggregates", "samples"):
        assert sorted(path.name for path in (recorded.folder / kind).iterdir()) == [path.name for path in recorded.parquet()]


def test_plain_duckdb_reads_the_counts(recorded) -> None:
    recorded.close(recorded.lines(7), minutes_ago=5)
    telemetry.compact()

    everything = f"read_parquet('{recorded.folder.parent}/*/aggregates/*.parquet')"
    found = rows.connection().execute(f"SELECT seconds, sum(requests), sum(rows) FROM {everything} WHERE NOT copy GROUP BY 1 ORDER BY 1").fetchall()

    assert found == [(seconds, 7, 14) for seconds in aggregates.LENGTHS]


def test_a_latency_of_nothing_or_beyond_every_bin_is_counted(recorded) -> None:
    recorded.append([recorded.line(latency_ms=0.0), recorded.line(latency_ms=1e9), recorded.line(latency_ms=None)])
    [one] = telemetry.counted("delays", since=BEGIN).values()

    assert one.requests == 3 and set(one.latencies) == {0, aggregates.BINS - 1}


@pytest.mark.parametrize("kind", ["aggregates", "samples"])
@pytest.mark.parametrize("damage", ["emptied", "shortened", "scribbled over"])
def test_counts_that_cannot_be_read_are_set_aside_said_and_made_anew(recorded, caplog, kind: str, damage: str) -> None:
    for part in range(2):
        recorded.close(recorded.lines(400, time=BEGIN + timedelta(hours=part)), minutes_ago=5 - part)  # too new to be merged
    telemetry.compact()
    before = told()
    [broken, whole] = sorted((recorded.folder / kind).iterdir())
    content = broken.read_bytes()
    scribbled = content[:8] + bytes(255 - byte for byte in content[8 : len(content) // 2]) + content[len(content) // 2 :]
    broken.write_bytes({"emptied": b"", "shortened": content[: len(content) // 2], "scribbled over": scribbled}[damage])

    requests, _ = told()
    assert requests == before[0] == 800
    assert not broken.exists() and broken.with_name(f"{broken.name}.broken").exists() and whole.exists()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"telemetry.set_aside {broken}"]

    assert telemetry.compact().aggregated == 1
    telemetry.compact()
    assert sorted((recorded.folder / kind).iterdir()) == [broken, whole]
    assert told() == before


def told() -> tuple[int, int]:
    """How many requests there were, by the counts, and how many rows are in the samples."""
    since = BEGIN - timedelta(minutes=17, seconds=30)
    return telemetry.count("delays", since=since), sum(map(len, labels.answers("delays", since=since, most=1)))


def test_an_error_that_no_counts_are_to_blame_for_is_raised_as_it_is(recorded) -> None:
    recorded.close(lines_of_days(recorded, 50), minutes_ago=5)
    telemetry.compact()
    recorded.parquet()[0].write_bytes(b"no rows any more")

    with pytest.raises(duckdb.Error, match="magic bytes"):
        telemetry.requests("delays")
    assert [path.suffix for path in (recorded.folder / "aggregates").iterdir()] == [".parquet"]
