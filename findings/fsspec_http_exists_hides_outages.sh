#!/usr/bin/env bash
# fsspec's HTTP filesystem says that a file does not exist when the server cannot answer.
#
# Version: fsspec 2026.9.0, aiohttp 3.14.5.
# Expected: exists() and info() raise an error of the connection when they cannot know: the server
#   answers 503, or nobody listens. cat_file() does.
# Seen: exists() is False in both cases, and info() raises FileNotFoundError. A program that begins
#   anew where it finds no marker takes a moment's outage for an empty storage; one that tries other
#   errors again does not try this one.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet fsspec==2026.9.0 aiohttp==3.14.5
cd "$work"
cat > try.py <<'PY'
import http.server
import threading

import fsspec


class Busy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/run/COMMIT"
files = fsspec.filesystem("http")


def said(act):
    try:
        return act(url)
    except Exception as error:
        return f"raises {type(error).__name__}"


def all_said():
    return {name: said(getattr(files, name)) for name in ("exists", "info", "cat_file")}


busy = all_said()
server.shutdown()
server.server_close()
gone = all_said()
print("the server answers 503:", busy)
print("nobody listens:        ", gone)
for found in (busy, gone):
    assert found["exists"] is False, "exists() tells an outage from a missing file now"
    assert found["info"] == "raises FileNotFoundError", "info() does now"
    assert found["cat_file"].startswith("raises Client")
PY
"$work/venv/bin/python" try.py
