"""The server of the page: requests that it answers or refuses."""

import http.client
import socket
from threading import Thread

import pytest

from retinanet.errors import InputError
from retinanet.report.browse_server import ADDRESS, BrowseServer


class FakeImages:
    """Two images, of which the second cannot be read."""

    def __len__(self) -> int:
        return 2

    def jpeg(self, index: int, max_side: int) -> bytes:
        if index == 1:
            raise InputError("b.png: damaged")
        return f"image {index} of {max_side}".encode()


@pytest.fixture
def server():
    with BrowseServer("<page>\u00e9", FakeImages()) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def answer(server, path: str, *, method: str = "GET", host: str | None = None):
    """Status, headers and body of the response to a request."""
    connection = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    result = response.status, dict(response.headers), response.read()
    connection.close()
    return result


def test_page_and_images_are_served_at_the_secret_path(server):
    root = f"/{server.secret}/"
    status, headers, body = answer(server, root)
    assert (status, body) == (200, "<page>\u00e9".encode())
    assert headers["Content-Type"] == "text/html; charset=utf-8" and headers["Referrer-Policy"] == "no-referrer"
    status, headers, body = answer(server, root + "thumbnail/0")
    assert (status, body, headers["Content-Type"]) == (200, b"image 0 of 400", "image/jpeg")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert answer(server, root + "image/0")[2] == b"image 0 of 1600"
    assert answer(server, root + "image/1")[::2] == (404, b"b.png: damaged")


OTHER_PATHS = (
    "/", "/x/", "/{}", "/{}/image/2", "/{}/image/-1", "/{}/image/00000000001", "/{}/image/\u0663", "/{}/image/0/",
    "/{}/image", "/{}/image/0?x", "/{}/../etc/passwd", "/{}/image/../../etc/passwd", "/{}//etc/passwd",
    "/{}/%2e%2e/etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize("path", OTHER_PATHS)
def test_nothing_else_is_served(server, path):
    with socket.create_connection((ADDRESS, server.server_port), timeout=10) as connection:  # sends paths unchanged
        target = path.format(server.secret)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {ADDRESS}:{server.server_port}\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"404"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:{}.evil.example", "[::1]:{}"]
)
def test_other_host_names_are_refused(server, host):
    assert answer(server, f"/{server.secret}/", host=host.format(server.server_port))[0] == 403


@pytest.mark.parametrize("host", ["localhost:{}", "127.0.0.1:1", "localhost:80"])
def test_any_local_port_may_be_forwarded_to_the_server(server, host):
    assert answer(server, f"/{server.secret}/", host=host.format(server.server_port))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_answered(server, method):
    assert answer(server, f"/{server.secret}/", method=method)[0] == 501


def test_server_is_reachable_only_from_this_machine_and_has_a_new_secret(server):
    assert server.server_address[0] == "127.0.0.1"
    with BrowseServer("", FakeImages()) as other:
        assert other.secret != server.secret and len(other.secret) >= 20


def test_port_in_use_is_reported(server):
    with pytest.raises(InputError, match=f"--port {server.server_port}: cannot be used: .*in use"):
        BrowseServer("", FakeImages(), port=server.server_port)
    with pytest.raises(InputError, match="or omit the option"):
        BrowseServer("", FakeImages(), port=server.server_port)
    with pytest.raises(InputError, match="--port 70000: cannot be used"):
        BrowseServer("", FakeImages(), port=70000)
