"""A server on 127.0.0.1 that speaks the chat-completions protocol, and fails as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Replier = Callable[[dict[str, Any]], str]


class Speaker:
    """What the server was asked, and its faults left: 429, 500, `torn`, `empty`, `slow`, any status, or a body."""

    def __init__(self, reply: Replier) -> None:
        self.reply, self.asked, self.keys, self.faults = reply, [], [], []
        self.lock = threading.Lock()
        self.url = ""
        self.wait = {"retry-after-ms": "5"}  # header of every reply

    def answer(self, body: dict[str, Any], key: str) -> tuple[int, bytes]:
        """Status and body of one reply."""
        with self.lock:
            self.asked.append(body)
            self.keys.append(key)
            fault = self.faults.pop(0) if self.faults else None
        if fault == "slow":
            time.sleep(0.5)
        if isinstance(fault, int):
            return fault, json.dumps({"error": {"message": f"told to fail with {fault}", "type": "x"}}).encode()
        if isinstance(fault, bytes):
            return 200, fault
        if fault == "torn":
            return 200, b'{"choices": [{"mess'
        choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.reply(body)}}]
        found = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, json.dumps(found | {"choices": [] if fault == "empty" else choices}).encode()


@contextmanager
def speaking(reply: Replier) -> Iterator[Speaker]:
    """A server that replies with what `reply` makes of a request."""
    speaker = Speaker(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = speaker.answer(body, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            for name, value in speaker.wait.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # the client's time was over
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    speaker.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield speaker
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
