"""False alarms of drift checks over real rows: drawn, written as telemetry's Parquet, and read back by the check itself.

`drifting` draws what a check sees of windows; this draws the rows, so that reading, unnesting and counting are in it too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlops_nb import datasets, monitoring, settings
from mlops_nb.telemetry import files, rows

from . import reporting
from .drift_peers import CATEGORIES, NUMBERS, shares
from .drifting import REFERENCE, share

if TYPE_CHECKING:
    import pandas as pd

_A_REFERENCE = 20
"""Windows beside one drawn reference, which is registered as a data set is."""
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def lines(windows: tuple[tuple[int, int], ...] = ((1000, 200), (100_000, 20))) -> Iterator[tuple[str, str]]:
    """What was drawn, and how often ours alarms."""
    for size, count in windows:
        yield f"unchanged, windows of {size:,} real rows", share(iter(alarms(size, count)))
    yield "moved by 0.2 σ in one feature, found within five windows of 1,000 real rows", share(iter(found(1000, 5, 60, 0.2)))


def alarms(size: int, count: int, shift: float = 0.0) -> list[bool]:
    """Whether each of so many windows alarms by itself."""
    return found(size, 1, count, shift)


def found(size: int, looks: int, count: int, shift: float) -> list[bool]:
    """Whether each of so many series of windows alarms by its last look."""
    verdicts: list[bool] = []
    while len(verdicts) < count:
        beside = min(_A_REFERENCE, count - len(verdicts))
        verdicts += _beside_one(len(verdicts), size, looks, beside, shift)
    return verdicts


def _beside_one(seed: int, size: int, looks: int, count: int, shift: float) -> list[bool]:
    with tempfile.TemporaryDirectory() as scratch, settings.using(Path(scratch) / "workspace"):
        train = _drawn(np.random.default_rng([5, seed]), REFERENCE, 0.0)
        datasets.register("train", train)
        reporting.behind(train)
        place = files.folder("delays", "1") / f"date={_EPOCH.date()}"
        place.mkdir(parents=True)
        return [_alarmed(place, np.random.default_rng([6, seed, n]), _EPOCH + timedelta(hours=n * looks), size, looks, shift) for n in range(count)]


def _alarmed(place: Path, random: np.random.Generator, began: datetime, size: int, looks: int, shift: float) -> bool:
    for look in range(looks):
        hour = began + timedelta(hours=look)
        _asked(place, hour, _drawn(random, size, shift))
        check = monitoring.check_drift("delays", since=began, until=hour + timedelta(hours=1), window="1h", engine="histograms")
        assert check.report["window"]["rows"] == size * (look + 1)
        if check.is_drift:
            return True
    return False


def _drawn(random: np.random.Generator, size: int, shift: float) -> pd.DataFrame:
    """Numbers, the first moved by *shift*, and categories as text."""
    import pandas as pd

    numbers = {f"f{n}": random.normal(shift if n == 0 else 0.0, 1.0, size) for n in range(NUMBERS)}
    texts = {f"c{n}": np.array([f"v{code}" for code in range(many)])[random.choice(many, size, p=shares(many))] for n, many in enumerate(CATEGORIES)}
    return pd.DataFrame(numbers | texts)


def _asked(place: Path, hour: datetime, drawn: pd.DataFrame) -> None:
    """Requests of ten rows each, spread over an hour, as compaction leaves them."""
    stem = int((hour + timedelta(hours=1)).timestamp() * 1e9)
    lists = ", ".join(f'list({name}) AS "in.{name}"' for name in drawn)
    time = f"(TIMESTAMP '{hour:%Y-%m-%d %H:%M:%S}' + to_microseconds((1e6 + min(i) * {3.5e9 / len(drawn)})::BIGINT)) AS time"
    facts = f"{time}, '{stem}-' || min(i) AS id, 200 AS status, 1.0::DOUBLE AS latency_ms, count(*) AS rows, NULL::VARCHAR AS error"
    raw = "NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs"
    connection = rows.connection()
    connection.register("drawn", drawn.assign(i=range(len(drawn))))
    file = place / f"{stem}.parquet"
    connection.execute(f"COPY (SELECT {facts}, {raw}, {lists} FROM drawn GROUP BY i // 10 ORDER BY time) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")
    connection.unregister("drawn")
