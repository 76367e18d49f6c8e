"""What the JupyterLab panel asks of the Jupyter server: three handlers under `/mlops_nb/`, and the way to the dashboard, closed to anonymous callers.

Loaded by jupyter_server itself (etc/jupyter/jupyter_server_config.d/mlops_nb.json), so its imports may be heavy.  Handlers answer as
`--json` does: `{"ok": true, "result": …}` or the error's own shape and HTTP status.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import tornado.web
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join

from . import overview
from .errors import BadOption, MlopsError, UnsafePath
from .reference import ModelRef
from .safety import checked_name
from .settings import Workspace, using_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_server.serverapp import ServerApp

T = TypeVar("T", bound=msgspec.Struct)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "mlops_nb.server_extension"}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    base = server.web_app.settings["base_url"]
    routes = [("summary", SummaryHandler), ("deploy", DeployHandler), ("dashboard", DashboardHandler)]
    server.web_app.add_handlers(".*$", [(url_path_join(base, "mlops_nb", name), handler) for name, handler in routes])
    if _can_proxy():
        from .proxied import DashboardProxy

        server.web_app.add_handlers(".*$", [(url_path_join(base, "mlops_nb", "at", r"(\d+)(/.*)?"), DashboardProxy)])


def _can_proxy() -> bool:
    return importlib.util.find_spec("jupyter_server_proxy") is not None


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a request that says from which folder the user looks, relative to the server's root."""

    folder: str = ""


class DeployRequest(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the deploy dialog sends."""

    model: str
    endpoint: str | None = None
    traffic: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None


class WorkspaceHandler(APIHandler):
    """Runs verbs in a thread, in the workspace of the folder that the request names."""

    auth_resource = "mlops_nb"

    async def answer(self, folder: str, verb: Callable[[], Any]) -> None:
        """Finish with *verb*'s result."""
        self.finish(msgspec.json.encode({"ok": True, "result": await asyncio.to_thread(self._within, folder, verb)}))

    def _within(self, folder: str, verb: Callable[[], Any]) -> Any:
        root = Path(self.settings.get("server_root_dir") or ".").expanduser().absolute()
        with using_here(Workspace.current(_below(root, folder)).root):
            return verb()

    def asked(self, kind: type[T]) -> T:
        """The request's body as *kind*.  Raises BadOption naming the field that is wrong."""
        try:
            return msgspec.json.decode(self.request.body or b"{}", type=kind)
        except msgspec.DecodeError as error:
            raise BadOption(f"This request cannot be read: {error}.", hint=f"a JSON object with {', '.join(kind.__struct_fields__)}") from None

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """A user's mistake is an answer, not an entry in the server's log."""
        if not isinstance(value, MlopsError):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One shape for every error; a bug's traceback stays in the server's log."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, MlopsError):
            self.set_status(error.http_status)
            self.finish(error.as_json())
        else:
            reason = getattr(error, "log_message", None) or HTTPStatus(status_code).phrase
            self.finish({"ok": False, "error": str(reason), "code": HTTPStatus(status_code).name, "hint": "the Jupyter server's log says more"})


def _below(root: Path, folder: str) -> Path:
    """A folder of the user's below the server's root, whatever it is called; links are followed, as the server's own file browser does.

    Raises UnsafePath for one that leads out.
    """
    place = Path(os.path.normpath(root / folder))
    if "\0" in folder or not place.is_relative_to(os.path.normpath(root)):
        raise UnsafePath(folder)
    return place


class SummaryHandler(WorkspaceHandler):
    """GET: the workspace at a glance."""

    _track_activity = False  # a panel that polls is no sign of life to whoever culls idle servers

    @tornado.web.authenticated
    @authorized
    async def get(self) -> None:
        """`overview.summary()` of the workspace near the folder `?folder=`."""
        await self.answer(self.get_query_argument("folder", ""), overview.summary)


class DeployHandler(WorkspaceHandler):
    """POST: run a model version behind an endpoint, without waiting until it is healthy."""

    @tornado.web.authenticated
    @authorized
    async def post(self) -> None:
        """Takes a DeployRequest; answers with the deployment."""
        request = self.asked(DeployRequest)
        await self.answer(request.folder, lambda: _deploy(request))


class DashboardHandler(WorkspaceHandler):
    """POST: start the dashboard when it does not run, and say where it is."""

    @tornado.web.authenticated
    @authorized
    async def post(self) -> None:
        """Answers `{url}`: this server's own address for it, where it has one, because the browser may be on another machine."""
        await self.answer(self.asked(Where).folder, lambda: _open_dashboard(self.base_url))


def _deploy(request: DeployRequest) -> Any:
    ref = ModelRef.parse(request.model)
    endpoint = checked_name(request.endpoint, what="endpoint") if request.endpoint else None
    from . import rollout  # with its processes and sockets, only once somebody deploys

    return rollout.deploy(ref, endpoint=endpoint, traffic=request.traffic, wait=False)


def _open_dashboard(base_url: str) -> dict[str, str]:
    from . import dashboards  # only once somebody looks

    url = dashboards.start()
    return {"url": dashboards.behind(url, base_url) if _can_proxy() else url}
