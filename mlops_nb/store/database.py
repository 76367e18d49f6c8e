"""The store is visited, never kept: lock, attach, one transaction, detach.

DuckDB lets one process hold a file for writing, and then nobody else may even read it.  So each process has one in-memory
DuckDB that attaches the workspace's file for the few milliseconds of one transaction, under a lock on a file beside it:
shared for reading, exclusive for writing.  This is the only module that says ATTACH.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import msgspec

from ..errors import StoreBusy, StoreCorrupt, StoreFull
from ..settings import Workspace
from . import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import duckdb

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
LOCK_TIMEOUT_SECONDS = 30.0

_visit = threading.RLock()  # one visit at a time in this process: all share one in-memory instance
_instance: tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection] | None = None
_inside = threading.local()


class Transaction:
    """One all-or-nothing visit.  Rows come back as dicts, or as *as_* (a msgspec Struct) with JSON columns decoded and times in UTC."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] = ()) -> None:
        """Run one statement.  Structs, dicts and lists among *values* become JSON, aware times become UTC."""
        self._connection.execute(sql, [_bound(value) for value in values])

    def insert(self, table: str, row: msgspec.Struct) -> None:
        """Add *row* to *table*; its fields are the columns."""
        fields = row.__struct_fields__
        marks = ", ".join("?" * len(fields))
        self.execute(f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})", [getattr(row, field) for field in fields])

    @overload
    def rows(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]: ...
    @overload
    def rows(self, sql: str, values: Sequence[object] = (), *, as_: type[T]) -> list[T]: ...
    def rows(self, sql: str, values: Sequence[object] = (), *, as_: type = dict) -> list[Any]:
        """Every row of a query."""
        self.execute(sql, values)
        columns = [(name, str(kind)) for name, kind, *_ in self._connection.description or ()]
        found = [{name: _read(value, kind) for (name, kind), value in zip(columns, row, strict=True)} for row in self._connection.fetchall()]
        return found if as_ is dict else [msgspec.convert(row, as_) for row in found]

    @overload
    def maybe(self, sql: str, values: Sequence[object] = ()) -> dict[str, Any] | None: ...
    @overload
    def maybe(self, sql: str, values: Sequence[object] = (), *, as_: type[T]) -> T | None: ...
    def maybe(self, sql: str, values: Sequence[object] = (), *, as_: type = dict) -> Any:
        """The first row, or None."""
        return next(iter(self.rows(sql, values, as_=as_)), None)

    def value(self, sql: str, values: Sequence[object] = ()) -> Any:
        """The first column of the first row, or None."""
        self.execute(sql, values)
        rows = self._connection.fetchall()  # all of them: a result that is not read to its end keeps the file open
        return rows[0][0] if rows else None


@contextmanager
def writing() -> Iterator[Transaction]:
    """One locked, all-or-nothing visit to the current workspace's store, made on first use.

    Raises StoreBusy, StoreTooNew, StoreCorrupt, StoreFull; after any error nothing of the visit remains.
    """
    workspace = Workspace.current()
    _make_folder(workspace.root)
    fresh = not workspace.store.exists()
    with _only_visit(), _locked(workspace.store, exclusive=True), _attached(workspace.store, read_only=False) as connection:
        if fresh:
            workspace.store.chmod(0o600)  # the folder may be an old one of the user's that others can enter
        for number, step in migrations.pending(connection, workspace.store):
            with _all_or_nothing(connection):
                migrations.apply(connection, number, step)
        with _all_or_nothing(connection):
            yield Transaction(connection)


@contextmanager
def reading() -> Iterator[Transaction]:
    """One visit that sees a single state of the store; other readers go on beside it.  Raises as `writing` does."""
    workspace = Workspace.current()
    if not workspace.store.exists():
        with writing():
            pass
    with _only_visit(), _locked(workspace.store, exclusive=False), _attached(workspace.store, read_only=True) as connection:
        if not migrations.pending(connection, workspace.store):
            yield Transaction(connection)
            return
    with writing() as tx:
        yield tx


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


@contextmanager
def _only_visit() -> Iterator[None]:
    if getattr(_inside, "store", False):
        raise RuntimeError("a visit to the store began inside another; pass the transaction on instead")
    with _visit:
        _inside.store = True
        try:
            yield
        finally:
            _inside.store = False


@contextmanager
def _locked(store: Path, *, exclusive: bool) -> Iterator[None]:
    path = store.with_suffix(".lock")
    if fcntl is None:  # pragma: no cover
        from filelock import FileLock

        with FileLock(path, timeout=LOCK_TIMEOUT_SECONDS):
            yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, path)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, how: int, path: Path) -> None:
    """Take the lock at once, or queue for it in the kernel, which is fair where polling starves somebody."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    waiting = os.dup(descriptor)
    taken = threading.Event()

    def queue() -> None:
        try:
            fcntl.flock(waiting, how)
            taken.set()
        finally:
            os.close(waiting)

    threading.Thread(target=queue, daemon=True, name="store-lock").start()
    if not taken.wait(LOCK_TIMEOUT_SECONDS):
        raise StoreBusy(path, waited_seconds=LOCK_TIMEOUT_SECONDS)


@contextmanager
def _attached(store: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    memory, inside = _connections()
    _attach(memory, store, read_only=read_only)
    try:
        yield inside
    except BaseException as error:
        _drop_unread(inside)
        if isinstance(error, duckdb.Error):
            _raise_translated(error, store)
        raise
    finally:
        _detach()


def _drop_unread(inside: duckdb.DuckDBPyConnection) -> None:
    """A result that was not read to its end would keep the file open."""
    import duckdb

    try:
        inside.execute("SELECT 1").fetchall()
    except duckdb.Error:
        pass  # the instance is spoilt, and thrown away next


def _detach() -> None:
    """Let the file go; an instance that a damaged file has spoilt is thrown away whole."""
    global _instance
    import duckdb

    memory, inside = _connections()
    try:
        memory.execute("DETACH store")
    except duckdb.Error:
        inside.close()
        memory.close()
        _instance = None


def _attach(memory: duckdb.DuckDBPyConnection, store: Path, *, read_only: bool) -> None:
    """Attach *store*, waiting out a program that opened the file without our lock."""
    import duckdb

    where = str(store).replace("'", "''")
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            memory.execute(f"ATTACH '{where}' AS store{' (READ_ONLY)' if read_only else ''}")
            return
        except duckdb.Error as error:
            if "Conflicting lock" not in str(error) and "set lock on file" not in str(error):
                _raise_translated(error, store)
            if time.monotonic() > deadline:
                raise StoreBusy(store, waited_seconds=LOCK_TIMEOUT_SECONDS) from error
            time.sleep(0.02)


@contextmanager
def _all_or_nothing(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    import duckdb

    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        try:
            connection.execute("ROLLBACK")
        except duckdb.Error:
            pass  # a failed COMMIT has already rolled back
        raise


def _raise_translated(error: Exception, store: Path) -> NoReturn:
    """Raise a fault of the disk or the file in our words; any other error, a bug of ours, as it is."""
    import duckdb

    text = str(error)
    if os.strerror(errno.ENOSPC) in text or "No space left" in text or "File too large" in text:
        raise StoreFull(store) from error
    if isinstance(error, duckdb.IOException | duckdb.FatalException | duckdb.InternalException | duckdb.SerializationException) or "Corrupt database" in text:
        raise StoreCorrupt(store, text.removeprefix("IO Error: ").splitlines()[0]) from error
    raise error


def _connections() -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]:
    """This process's instance: one connection that attaches and detaches, one that looks into what is attached."""
    global _instance
    if _instance is None:
        import duckdb

        memory = duckdb.connect(":memory:", config={"threads": 1, "autoinstall_known_extensions": False})
        inside = memory.cursor()
        memory.execute("ATTACH ':memory:' AS store")
        inside.execute("USE store")  # by name, so it holds for every file that bears the name from now on
        memory.execute("DETACH store")
        _instance = memory, inside
    return _instance


def _forget() -> None:
    """A forked child must not share its parent's instance, nor a lock some other thread held."""
    global _instance, _visit, _inside
    _instance, _visit, _inside = None, threading.RLock(), threading.local()


os.register_at_fork(after_in_child=_forget)


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFull(root) from error
        raise StoreCorrupt(root, error.strerror or str(error)) from error
    ignore = root / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


def _bound(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, msgspec.Struct | dict | list | tuple):
        return msgspec.json.encode(value).decode()
    return value


def _read(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "JSON":
        return msgspec.json.decode(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return value
