"""The least that could serve: `python -m bench.bare PORT [MODEL.onnx]` echoes every body through Granian, or answers it by ONNX Runtime."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


class Echo:
    """Answers every request with its own body."""

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """One request."""
        proto.response_bytes(200, [("content-type", "application/json")], await proto())


class Bare:
    """Answers `{"input name": [[value], …]}` with the model's first output; checks nothing, keeps nothing."""

    def __init__(self, model: str) -> None:
        import numpy
        import onnxruntime

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}
        self._kinds = {arg.name: kinds.get(arg.type, object) for arg in self._session.get_inputs()}
        self._array = numpy.array

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """One request."""
        body = json.loads(await proto())
        first = self._session.run(None, {name: self._array(values, dtype=self._kinds[name]) for name, values in body.items()})[0]
        proto.response_bytes(200, [("content-type", "application/json")], json.dumps(first.tolist()).encode())


async def serve(app: Any, port: int) -> None:
    """Answer on 127.0.0.1 until killed."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    await Server(app, address="127.0.0.1", port=port, interface=Interfaces.RSGI, websockets=False, log_enabled=False, backlog=1024).serve()


if __name__ == "__main__":
    asyncio.run(serve(Bare(sys.argv[2]) if len(sys.argv) > 2 else Echo(), int(sys.argv[1])))
