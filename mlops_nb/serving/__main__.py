"""`python -m mlops_nb.serving SPEC.json`: load the model, try it on its own sample, answer until told to stop.

Exits 0 after SIGTERM or SIGINT, 1 after writing failure.json when it cannot come up.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .. import processes
from ..errors import PortInUse
from ..store.deployments import Reason
from . import failures
from .http import Listener
from .spec import ServerSpec

if TYPE_CHECKING:
    from .capture import Capture
    from .engines import Engine
    from .server import Server

QUICK_SECONDS = 0.005
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def main() -> None:
    """Run the deployment that the file in argv describes."""
    run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ServerSpec))


def run(spec: ServerSpec) -> None:
    """Serve *spec* until told to stop; does not return."""
    faulthandler.enable()
    if spec.ends_with:
        processes.end_with(spec.ends_with)
    prepare(spec)
    try:
        server, capture = come_up(spec)
    except (Exception, SystemExit) as error:  # whatever the user's code raises while loading is what they must be told
        tell(failures.why(error, spec, doing="exception while loading"), spec)
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(serve(server, capture, spec))


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop: libuv's (uvloop), with which one row costs a sixth less of a core, or Python's own where that is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def prepare(spec: ServerSpec) -> None:
    """The process as the deployment wants it; before numpy and its threads are imported."""
    if spec.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, int(spec.cpus or os.cpu_count() or 1))))
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # what a model is asked is nobody's business but its owner's
    os.environ.update(spec.variables)
    # The loop waits for Python's lock behind a model in pure Python, and behind the writer of the telemetry.
    sys.setswitchinterval(0.0005)
    failures.show_cells(spec.cells)


def come_up(spec: ServerSpec) -> tuple[Server, Capture]:
    """The model loaded, warm and ready to answer.  Raises PortInUse and whatever the model raises."""
    check_port(spec.port)
    from . import trial
    from .capture import Capture
    from .engines import load
    from .server import Server  # before the memory limit, as everything the server itself needs

    keep_freed_memory()
    limit_memory(spec)
    engine = load(spec)
    outputs, quick = warm_up(engine, spec)
    capture = Capture(Path(spec.capture_folder) if spec.capture_folder else None, payload_percent=spec.capture_payload_percent)
    server = Server(spec, engine, capture, outputs=outputs, quick=quick, batching=trial.batching(engine))
    told = msgspec.structs.replace(engine.signature, outputs=outputs) if engine.signature else None
    capture.start(signature=told.as_json() if told else None)
    return server, capture


def check_port(port: int) -> None:
    """Raises PortInUse, before anything is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortInUse(port) from None


def keep_freed_memory() -> None:
    """Keep up to 32 MB that were freed for what comes next: glibc hands arrays of 64 rows back to the kernel, which gives them again page by page.

    That takes a fourteenth of the time of such a request.  Other allocators know nothing of it and are left as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 16 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 32 << 20)


def limit_memory(spec: ServerSpec) -> None:
    """Let the process take *memory_mb* in all: what is left of it becomes the room for private memory (RLIMIT_DATA)."""
    if not spec.memory_mb or sys.platform != "linux":
        return
    import resource

    sizes = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    data, resident = (int(sizes[name].split()[0]) * 1024 for name in ("VmData", "VmRSS"))
    room = spec.memory_mb * 1_000_000 - resident
    if room <= 0:
        raise MemoryError(f"the server alone takes {resident // 1_000_000} MB of the {spec.memory_mb} MB it may take")
    resource.setrlimit(resource.RLIMIT_DATA, (data + room, resource.RLIM_INFINITY))


def warm_up(engine: Engine, spec: ServerSpec) -> tuple[list, bool]:
    """Answer the signature's own sample once.  Returns the outputs as they came (ONNX may narrow what was registered), and whether that was quick.

    A model that fails on every row it was registered with cannot answer: the reason is written and the process ends.
    """
    from ..signature import outputs_of
    from .engines import predict

    signature = engine.signature
    known = list(signature.outputs) if signature else []
    if engine.name == "script" or not signature or not (rows := signature.sample_columns()):
        return known, True
    for number, columns in enumerate(rows):
        try:
            arrays = predict(engine, columns)
            started = time.perf_counter()
            predict(engine, columns)
            return outputs_of(arrays), time.perf_counter() - started < QUICK_SECONDS
        except (Exception, SystemExit) as error:
            if number == len(rows) - 1:
                reason = failures.why(error, spec, doing="exception in a request")
                tell(msgspec.structs.replace(reason, message=f"{reason.message} (on the sample it was registered with)"), spec)
    raise AssertionError("unreachable")


def tell(reason: Reason, spec: ServerSpec) -> None:
    """Write failure.json, say it in the log, and end with exit code 1."""
    failures.write(reason, Path(spec.run_folder) / "failure.json")
    sys.stderr.write(f"deployment.failed kind={reason.kind!r} where={reason.where!r} {reason.message}\n{reason.traceback}")
    sys.stderr.flush()
    os._exit(1)  # threads that the user's code started do not hold it up


async def serve(server: Server, capture: Capture, spec: ServerSpec) -> None:
    """Answer until SIGTERM or SIGINT; then finish what is in flight (while there is time) and write what waits."""
    listener = Listener(server, server.welcomes)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signaled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signaled, stop.set)
    gc.collect()
    gc.freeze()
    try:
        await listener.start(spec.port, host=spec.host)
    except OSError:
        tell(failures.why(PortInUse(spec.port), spec, doing="exception while loading"), spec)
    sys.stderr.write(f"deployment.started {spec.endpoint}/{spec.deployment} model={spec.model}:{spec.version} port={spec.port}\n")
    await stop.wait()
    await listener.stop(seconds=spec.drain_seconds)
    capture.end()
    sys.stderr.write(f"deployment.stopped {spec.endpoint}/{spec.deployment} unfinished={server.scorer.in_flight}\n")
    sys.stderr.flush()
    os._exit(0)  # a model that still computes does not hold it up


if __name__ == "__main__":
    main()
