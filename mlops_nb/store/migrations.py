"""The store's schema as numbered steps.  A step, once released, is never edited; a change is the next number."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import StoreTooNew

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

FIRST_TABLES = """
CREATE TABLE datasets (
    name VARCHAR, version INTEGER, hash VARCHAR, rows BIGINT, schema JSON, profile JSON, file VARCHAR, bytes BIGINT,
    description VARCHAR, tags JSON, author VARCHAR, run VARCHAR, created_at TIMESTAMP, PRIMARY KEY (name, version));
CREATE TABLE environments (
    name VARCHAR, version INTEGER, hash VARCHAR, python VARCHAR, platform VARCHAR, interpreter VARCHAR, packages JSON,
    manager VARCHAR, created_at TIMESTAMP, PRIMARY KEY (name, version));
CREATE TABLE runs (
    id VARCHAR, kind VARCHAR, notebook VARCHAR, cells JSON, git JSON, author VARCHAR, host VARCHAR,
    python VARCHAR, started_at TIMESTAMP);
CREATE TABLE model_versions (
    model VARCHAR, version INTEGER, flavor VARCHAR, engine VARCHAR, hash VARCHAR, files JSON, signature JSON, metrics JSON,
    tags JSON, description VARCHAR, dataset VARCHAR, environment VARCHAR, run VARCHAR, author VARCHAR, trusted BOOLEAN,
    conversion JSON, created_at TIMESTAMP, PRIMARY KEY (model, version));
CREATE TABLE aliases (model VARCHAR, alias VARCHAR, version INTEGER, set_at TIMESTAMP, set_by VARCHAR);
CREATE TABLE endpoints (name VARCHAR PRIMARY KEY, created_at TIMESTAMP, author VARCHAR);
CREATE TABLE deployments (
    endpoint VARCHAR, name VARCHAR, model VARCHAR, version INTEGER, target VARCHAR, spec JSON, wanted VARCHAR,
    generation INTEGER, status VARCHAR, reason JSON, handle JSON, restarts INTEGER, created_at TIMESTAMP,
    changed_at TIMESTAMP, author VARCHAR, PRIMARY KEY (endpoint, name));
CREATE TABLE deployment_history (
    endpoint VARCHAR, name VARCHAR, model VARCHAR, version INTEGER, target VARCHAR, status VARCHAR, reason JSON, time TIMESTAMP);
CREATE TABLE traffic (endpoint VARCHAR, sequence INTEGER, weights JSON, time TIMESTAMP, author VARCHAR, why VARCHAR);
CREATE TABLE events (
    id VARCHAR, type VARCHAR, source VARCHAR, subject VARCHAR, time TIMESTAMP, data JSON);
CREATE TABLE drift_checks (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, deployment VARCHAR, dataset VARCHAR, engine VARCHAR, is_drift BOOLEAN,
    report JSON, time TIMESTAMP);
CREATE TABLE profiles (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, deployment VARCHAR, model VARCHAR, version INTEGER, hardware VARCHAR,
    points JSON, time TIMESTAMP);
CREATE TABLE workspace_state (key VARCHAR PRIMARY KEY, value JSON);
"""

PROFILES_WITH_ADVICE = """
ALTER TABLE profiles ADD COLUMN settings JSON DEFAULT '{}';
ALTER TABLE profiles ADD COLUMN advice JSON DEFAULT '{}';
ALTER TABLE profiles ADD COLUMN complete BOOLEAN DEFAULT true;
"""

REHEARSALS = """
ALTER TABLE model_versions ADD COLUMN expected JSON;
CREATE TABLE rehearsals (
    id VARCHAR PRIMARY KEY, model VARCHAR, version INTEGER, passed BOOLEAN, environment VARCHAR, packages INTEGER, rows INTEGER,
    compared_with VARCHAR, max_difference DOUBLE, checks JSON, culprit JSON, seen JSON, seconds DOUBLE, time TIMESTAMP);
"""

SPLITS_WITH_SLOTS = """
ALTER TABLE traffic ADD COLUMN slots JSON DEFAULT '[]';
ALTER TABLE traffic ADD COLUMN sticky VARCHAR DEFAULT '';
ALTER TABLE traffic ADD COLUMN mirrors JSON DEFAULT '{}';
CREATE TABLE rollouts (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, kind VARCHAR, deployment VARCHAR, steps JSON, every_seconds DOUBLE, step INTEGER,
    status VARCHAR, settings JSON, evidence JSON, reason VARCHAR, next_time TIMESTAMP, author VARCHAR, why VARCHAR, created_at TIMESTAMP,
    changed_at TIMESTAMP);
"""

PACKAGES = """
CREATE TABLE packages (
    content VARCHAR, model VARCHAR, version INTEGER, target VARCHAR, folder VARCHAR, base VARCHAR, platform VARCHAR, image VARCHAR, digest VARCHAR,
    bytes BIGINT, base_bytes BIGINT, pushed VARCHAR, time TIMESTAMP);
"""

DEVICES = """
CREATE TABLE devices (
    name VARCHAR PRIMARY KEY, online BOOLEAN, reported JSON, seen_at TIMESTAMP, stream VARCHAR, ingested BIGINT, pending JSON);
"""

SUMMARIES = """
CREATE TABLE summaries (hash VARCHAR PRIMARY KEY, columns JSON);
"""

ALERT_RULES = """
CREATE TABLE alert_rules (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, condition VARCHAR, firing BOOLEAN, since TIMESTAMP, value VARCHAR, acknowledged VARCHAR,
    snoozed_until TIMESTAMP, author VARCHAR, created_at TIMESTAMP);
"""

REPLAYS = """
CREATE TABLE replays (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, deployment VARCHAR, model VARCHAR, version INTEGER, since TIMESTAMP, until TIMESTAMP, speed DOUBLE,
    requests BIGINT, left_out BIGINT, late_ms DOUBLE, first_error VARCHAR, comparison JSON, guards JSON, words JSON, seconds DOUBLE, author VARCHAR,
    time TIMESTAMP);
"""

SCHEDULES = """
CREATE TABLE schedules (
    id VARCHAR PRIMARY KEY, endpoint VARCHAR, words VARCHAR, every_seconds DOUBLE, options JSON, next_time TIMESTAMP, last_time TIMESTAMP, outcome VARCHAR,
    author VARCHAR, created_at TIMESTAMP);
CREATE TABLE silences (id VARCHAR, endpoint VARCHAR, feature VARCHAR, kind VARCHAR, until TIMESTAMP, why VARCHAR, author VARCHAR, time TIMESTAMP);
"""

SPECS_IN_HISTORY = """
ALTER TABLE deployment_history ADD COLUMN spec JSON;
"""

AUTHORS_IN_HISTORY = """
ALTER TABLE deployment_history ADD COLUMN author VARCHAR;
"""

STEPS: tuple[tuple[str, str], ...] = (
    ("first tables", FIRST_TABLES),
    ("profiles with advice", PROFILES_WITH_ADVICE),
    ("rehearsals", REHEARSALS),
    ("splits with slots", SPLITS_WITH_SLOTS),
    ("packages", PACKAGES),
    ("devices", DEVICES),
    ("summaries", SUMMARIES),
    ("alert rules", ALERT_RULES),
    ("replays", REPLAYS),
    ("schedules", SCHEDULES),
    ("specs in history", SPECS_IN_HISTORY),
    ("authors in history", AUTHORS_IN_HISTORY),
)
"""Name and SQL of every step; step N of the store is the Nth of these."""

_LEDGER = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER, name VARCHAR, applied_at TIMESTAMP)"


def pending(connection: duckdb.DuckDBPyConnection, store: Path) -> list[tuple[int, tuple[str, str]]]:
    """The numbered steps the attached store lacks.  Raises StoreTooNew when it has steps this code does not know."""
    found = _applied(connection)
    if found > len(STEPS):
        raise StoreTooNew(store, found=found, known=len(STEPS))
    return list(enumerate(STEPS, start=1))[found:]


def apply(connection: duckdb.DuckDBPyConnection, number: int, step: tuple[str, str]) -> None:
    """Take one step, within the caller's transaction."""
    name, sql = step
    connection.execute(_LEDGER)
    connection.execute(sql)
    connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", [number, name, datetime.now(UTC).replace(tzinfo=None)])


def _applied(connection: duckdb.DuckDBPyConnection) -> int:
    import duckdb

    try:
        rows = connection.execute("SELECT number FROM migrations").fetchall()
    except duckdb.CatalogException:
        return 0  # a store just made
    return max((number for (number,) in rows), default=0)
