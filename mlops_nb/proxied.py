"""The dashboard by way of the Jupyter server, for a browser on another machine: `<base URL>mlops_nb/at/<port>/`.

Needs jupyter-server-proxy in the server's environment.  Its own `/proxy/<port>/` passes on the browser's Host and Origin, which the dashboard
refuses, as it must of names that were made to lead here; behind this address the Jupyter server has asked who it is, and vouches for them.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

from jupyter_server.utils import url_path_join
from jupyter_server_proxy.handlers import LocalProxyHandler
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError

from . import dashboards

_OURS_ALONE = ("Authorization", "Cookie", "X-Forwarded-Host")
"""What the dashboard has no business with."""


_known: dict[int, float] = {}
"""Ports that a dashboard was seen on, and when: looking for one means every process of the machine."""
_KNOWN_SECONDS = 10.0


def _is_dashboard(port: int) -> bool:
    now = time.monotonic()
    if now - _known.get(port, -_KNOWN_SECONDS) < _KNOWN_SECONDS:
        return True
    if found := dashboards.serves(port):
        _known[port] = now
    return found


class DashboardProxy(LocalProxyHandler):  # type: ignore[misc]
    """Passes on what a user who is logged in asks of a dashboard, from the server's own pages, and of nothing else on this machine."""

    auth_resource = "mlops_nb"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.update_last_activity = False  # figures that refresh are no sign of life to whoever culls idle servers

    async def prepare(self, *args: Any, **options: Any) -> None:
        """Refuse any port but a dashboard's, and what a page of somebody else's asks: its origin is not told to the dashboard, which would refuse it."""
        if inspect.isawaitable(done := super().prepare(*args, **options)):
            await done
        if not _is_dashboard(int(self.path_args[0])):
            raise HTTPError(404, "no dashboard runs there; open it again from the MLOps panel")
        if "Origin" in self.request.headers and not self.check_origin():
            raise HTTPError(403, "another site's page may not ask the dashboard")

    def proxy_request_headers(self) -> HTTPHeaders:
        """The browser's, less what is the Jupyter server's own, as from this machine."""
        headers = super().proxy_request_headers()
        here = f"127.0.0.1:{self.path_args[0]}"
        for name in _OURS_ALONE:
            headers.pop(name, None)
        headers["Host"] = here
        if "Origin" in headers:
            headers["Origin"] = f"http://{here}"
        return headers

    def _get_context_path(self, host: str, port: str) -> str:
        return url_path_join(self.base_url, "mlops_nb", "at", str(port))
