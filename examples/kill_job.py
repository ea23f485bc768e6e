#!/usr/bin/env python3
"""kill_job.py JOB [HOST [PORT]]: kill a job over the server's WebSocket.

Connects to ws://localhost:8888/ws, sends {"killCron": JOB}, prints what comes back
about the job, and ends when the job runs no more: 0 if it was killed, 1 if the
server refused, 2 if it still runs after a minute. Needs nothing but Python 3. The
environment may say SALTPETER_HOST, SALTPETER_PORT, and, where the server wants one,
SALTPETER_TOKEN_FILE, a file with a token.
"""
import base64
import json
import os
import socket
import struct
import sys
import time


class WebSocket:
    """Just enough of RFC 6455 for text messages."""

    def __init__(self, host, port, path, headers):
        self.sock = socket.create_connection((host, port), timeout=10)
        self.sock.settimeout(30)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET %s HTTP/1.1" % path, "Host: %s:%d" % (host, port), "Connection: Upgrade", "Upgrade: websocket",
                 "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key] + headers
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = self.until(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.split(b"\r\n")[0].decode("utf-8", "replace"))

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def take(self, n):
        while len(self.buffer) < n:
            self.more()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def send(self, payload, opcode=1):
        n = len(payload)
        size = bytes([0x80 | n]) if n < 126 else b"\xfe" + struct.pack(">H", n) if n < 65536 else b"\xff" + struct.pack(">Q", n)
        mask = os.urandom(4)
        self.sock.sendall(bytes([0x80 | opcode]) + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def receive(self):
        """The next text message; pings are answered on the way."""
        message = b""
        while True:
            first, size = self.take(2)
            size &= 0x7F
            if size == 126:
                size = struct.unpack(">H", self.take(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self.take(8))[0]
            data = self.take(size)
            opcode = first & 0x0F
            if opcode == 8:
                raise ConnectionError("the server closed the connection")
            if opcode == 9:
                self.send(data, 10)
            elif opcode in (0, 1, 2):
                message += data
                if first & 0x80:
                    return message.decode("utf-8", "replace")


def main(args):
    if not 2 <= len(args) <= 4:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    job = args[1]
    host = args[2] if len(args) > 2 else os.environ.get("SALTPETER_HOST", "localhost")
    port = int(args[3] if len(args) > 3 else os.environ.get("SALTPETER_PORT", "8888"))
    headers = []
    if os.environ.get("SALTPETER_TOKEN_FILE"):
        with open(os.environ["SALTPETER_TOKEN_FILE"]) as f:
            headers.append("Authorization: Bearer " + f.read().strip())
    ws = WebSocket(host, port, "/ws", headers)
    ws.send(json.dumps({"killCron": job}).encode())
    deadline, asked, gone = time.time() + 60, False, False
    seen, settled = set(), set()  # runs of the job, and those whose receipt has come
    while time.time() < deadline:
        try:
            frame = json.loads(ws.receive())
        except socket.timeout:
            break
        kind = frame.get("type")
        if kind in ("result", "receipt"):
            print(json.dumps(frame), flush=True)
            if kind == "result" and not frame["ok"]:
                return 1
            asked = True
            if kind == "receipt":
                settled.add(frame["run"])
        elif kind == "status":
            runs = sorted(i for i, run in frame["running"].items() if run["name"] == job)
            if runs:
                seen.update(runs)
                print("running: " + " ".join(runs), flush=True)
            elif (asked or seen) and not gone:
                gone = True
                print("%s is not running" % job, flush=True)
                # A receipt may come a moment after the status that its run has left.
                deadline = min(deadline, time.time() + 2)
                ws.sock.settimeout(2)
        if gone and settled and seen <= settled:
            return 0
    if gone:
        return 0
    print("%s still runs" % job, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except (OSError, ConnectionError) as e:
        print("kill_job.py: error: %s" % e, file=sys.stderr)
        sys.exit(1)
