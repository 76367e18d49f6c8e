"""A scoring server's outside, small: it says who it is and what it was sent.  `python backend.py NAME PORT TOKEN`."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""
    token = ""
    ready = True
    copies = 0
    released = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/v2/health/ready":
            self.answer(200 if Backend.ready else 503, {})
        elif self.headers.get_all("x-mlops-token") != [self.token]:
            self.answer(401, {"error": "not from the gateway"})
        else:
            self.asked()

    do_POST = do_GET

    def asked(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/sleep"):
            time.sleep(float(self.path.partition("=")[2]))
        if self.path == "/hang-up":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if self.path in ("/become-ready", "/become-unready"):
            Backend.ready = self.path == "/become-ready"
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_copy = headers.get("x-request-id", "").endswith("~shadow")
        Backend.copies += is_copy
        if self.path == "/release":
            Backend.released.set()
        if self.path == "/hold" and is_copy:
            Backend.released.wait(60)
        status = 500 if self.path == "/fail" else 200
        self.answer(status, {"name": self.name, "path": self.path, "headers": headers, "bytes": len(sent), "copies": Backend.copies})

    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Backend.name, port, Backend.token = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    Backend.wbufsize = -1  # one write per answer
    Backend.disable_nagle_algorithm = True
    Server(("127.0.0.1", port), Backend).serve_forever()
