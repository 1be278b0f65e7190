"""A server that speaks S3: moto, in a thread of the test process. A pytest plugin of few tests."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Quiet(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        pass


class S3Server:
    """Has one empty bucket. `fail` requests are answered with 500, the next ones."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.bucket = f"lake-{secrets.token_hex(4)}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
        }
        self.fail = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if self.fail > 0:
            self.fail -= 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            body = b"<Error><Code>InternalError</Code><Message>a bad moment</Message></Error>"
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return self._app(environ, start_response)

    def client(self) -> s3fs.S3FileSystem:
        """A client that shares nothing with others, as in another process."""
        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # the last test's server is gone
    server.client().mkdir(server.bucket)
    yield server
    server.end()
