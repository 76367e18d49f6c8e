"""The same forest behind each peer, as its own documentation has a model served; run by the peer's interpreter.

`python peer_servers.py PEER MODEL.onnx PORT` answers on 127.0.0.1 with one worker until killed.  Imports nothing of this project.
All run the ONNX file by ONNX Runtime on one thread, so that what differs is the server.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path


def mlserver(model: str, port: str) -> None:
    """A custom runtime, found through model-settings.json; inference in the server's process (`parallel_workers: 0`)."""
    import json
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        ports = {"http_port": int(port), "grpc_port": _free_port(), "metrics_port": _free_port()}
        (Path(folder) / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False} | ports))
        (Path(folder) / "model-settings.json").write_text(
            json.dumps({"name": "forest", "implementation": "peer_runtime.Forest", "parameters": {"uri": model, "version": "1"}})
        )
        (Path(folder) / "peer_runtime.py").write_text(_MLSERVER)
        subprocess.run([str(Path(sys.executable).with_name("mlserver")), "start", folder], env=os.environ | {"PYTHONPATH": folder}, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_MLSERVER = """\
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Forest(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        label, probabilities = self._session.run(None, {self._session.get_inputs()[0].name: rows})
        outputs = [NumpyCodec.encode_output("label", label), NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""


def litserve(model: str, port: str) -> None:
    """A LitAPI with one worker, in a module of its own because its processes are spawned."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "forest.py").write_text(_LITSERVE)
        subprocess.run([sys.executable, "forest.py", model, port], cwd=folder, check=False)


_LITSERVE = """\
import sys

import litserve
import numpy as np
import onnxruntime


class Forest(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def decode_request(self, request):
        return np.array(request["input"], dtype=np.float32)

    def predict(self, rows):
        return self.session.run(None, {self.input: rows})

    def encode_response(self, output):
        return {"label": output[0].tolist(), "probabilities": output[1].tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Forest(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False)
"""


def mlflow(model: str, port: str) -> None:
    """The ONNX flavour behind `mlflow models serve`, in the environment as it is."""
    import subprocess

    import mlflow.onnx
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        options = {"intra_op_num_threads": 1}
        mlflow.onnx.save_model(onnx.load(model), f"{folder}/forest", onnx_session_options=options, onnx_execution_providers=["CPUExecutionProvider"])
        serve = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", f"{folder}/forest", "-h", "127.0.0.1", "-p", port, "-w", "1"]
        subprocess.run([*serve, "--env-manager", "local"], env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, check=False)


def bentoml(model: str, port: str) -> None:
    """A service class, one worker, numpy arrays by its own types."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "service.py").write_text(_BENTOML.format(model=model))
        serve = [str(Path(sys.executable).with_name("bentoml")), "serve", "service:Forest", "--host", "127.0.0.1", "--port", port, "--working-dir", folder]
        environment = {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(serve, env=os.environ | environment, check=False)


_BENTOML = """\
import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Forest:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    @bentoml.api
    def predict(self, input: np.ndarray) -> dict:
        label, probabilities = self.session.run(None, {{self.name: input.astype(np.float32)}})
        return {{"label": label.tolist(), "probabilities": probabilities.tolist()}}
"""


if __name__ == "__main__":
    # this file's folder must not come first: it holds modules of common names
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]
    {"mlserver": mlserver, "litserve": litserve, "mlflow": mlflow, "bentoml": bentoml}[sys.argv[1]](sys.argv[2], sys.argv[3])
