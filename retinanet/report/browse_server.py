"""A web server for one page and its images, reachable only by the user on this machine."""

import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retinanet.errors import InputError
from retinanet.report.browse_images import IMAGE_SIDE, THUMBNAIL_SIDE, ImageFiles

ADDRESS = "127.0.0.1"  # not reachable from other machines
HOSTS = (ADDRESS, "localhost")  # at any port: an SSH tunnel may use another local port
SIDES = {"thumbnail": THUMBNAIL_SIDE, "image": IMAGE_SIDE}
TIMEOUT = 30  # seconds without a request, after which a connection is closed


class BrowseServer(ThreadingHTTPServer):
    """Serves a page at a secret path, and the images that it shows by their index.

    Other users of the machine and other websites cannot guess the path. Requests with any other host name are refused,
    so a website cannot reach the server by resolving its own name to this address (DNS rebinding). Images are requested
    by number, so no path in a request is ever opened.

    Args:
        port: 0 chooses a free one.

    Raises:
        InputError: the port cannot be used.
    """

    daemon_threads = True  # an open connection does not keep the process alive

    def __init__(self, page: str, images: ImageFiles, *, port: int = 0):
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"--port {port}: cannot be used: {reason}; choose another one, or omit the option"
            ) from None
        self.page = page.encode(errors="backslashreplace")
        self.images = images
        self.secret = secrets.token_urlsafe(16)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the browser closes early; report everything else."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET only; the base class refuses all other methods."""

    server: BrowseServer
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def do_GET(self) -> None:
        name, _, port = self.headers.get("Host", "").partition(":")
        if name not in HOSTS or not port.isdecimal():
            self._send(HTTPStatus.FORBIDDEN, b"wrong host", "text/plain")
            return
        secret, slash, path = self.path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
        elif path == "":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif (match := re.fullmatch(r"(thumbnail|image)/([0-9]{1,9})", path)) and int(match[2]) < len(
            self.server.images
        ):
            self._send_image(int(match[2]), SIDES[match[1]])
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def _send_image(self, index: int, max_side: int) -> None:
        try:
            encoded = self.server.images.jpeg(index, max_side)
        except InputError as error:
            self._send(HTTPStatus.NOT_FOUND, str(error).encode(errors="backslashreplace"), "text/plain; charset=utf-8")
        else:
            self._send(HTTPStatus.OK, encoded, "image/jpeg")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "private, max-age=3600" if content_type == "image/jpeg" else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing about requests."""
