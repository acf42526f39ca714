"""A server of files on this machine that can be told to misbehave, for tests of downloads."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if self.path not in server.files:
            return self.send_error(404)
        content, start = server.files[self.path], 0
        if wanted and server.knows_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                return self.answer(416, b"", 0, {"Content-Range": f"bytes */{len(content)}"})
            extent = server.content_range or f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], len(content) - start, {"Content-Range": extent})
        return self.answer(200, content, len(content), {})

    def answer(self, status, body, length, headers):
        self.send_response(status)
        for name, value in headers.items() | {("Content-Type", self.server.content_type)}:
            self.send_header(name, value)
        if self.server.tells_length:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_after])

    def log_message(self, *args):
        pass


class FileServer(ThreadingHTTPServer):
    """Serves `files`, path -> content; `asked` lists the requests as (path, Range header)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []
        self.knows_ranges = True
        self.tells_length = True
        self.cut_after = None  # bytes of each answer that are sent before the connection is closed
        self.content_range = None  # what a part claims to be
        self.content_type = "application/octet-stream"

    def put(self, path, content):
        """Serve `content` under this path; the address."""
        self.files[path] = content
        return f"http://127.0.0.1:{self.server_port}{path}"


@contextmanager
def serving():
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
