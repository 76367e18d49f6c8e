"""What `%mlops dashboard` runs: the pages of app.py, which no other site may put in a frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from streamlit.starlette import App

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = [(b"content-security-policy", b"frame-ancestors 'self'"), (b"x-frame-options", b"SAMEORIGIN"), (b"referrer-policy", b"same-origin")]


class Unframed:
    """Says with every answer that only pages from here may show it in a frame, so that no page can lay itself over the buttons."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


app = App(Path(__file__).parent / "app.py", middleware=[Middleware(Unframed)])
