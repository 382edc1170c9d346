"""Clients that send slowly, half, or never the rest: each is let go, with an answer where it can read one, and nobody else waits for it."""

import socket
import threading
import time

import httpx

from tests.serving.processes import serve

HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"
GOOD = b'{"instruction": "count", "max_new_tokens": 2}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
LATE = b"X-Slow: "  # the beginning of a header that goes on and on
CLIENTS = {  # what is sent at once, whether a byte follows now and then, and the answers that come before the connection is closed
    "says nothing": (b"", False, []),
    "drips its head": (HEAD + LATE, True, []),
    "drips the head of its second request": (WHOLE + HEAD + LATE, True, [b"200"]),
    "sends half a head": (HEAD, False, []),
    "sends half a body": (HEAD + b"Content-Length: 100\r\n\r\n{", False, [b"408"]),
    "drips its body": (HEAD + b"Content-Length: 100000\r\n\r\n{", True, [b"408"]),
    "drips a body that is too large": (HEAD + b"Content-Length: 100000000\r\n\r\n{", True, [b"413"]),
    "drips chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3 + b"fffff\r\n", True, [b"408"]),
}


def answers(port, first, drips):
    """The statuses that such a client gets until it is let go, at most a minute."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(first)
        client.settimeout(0.1)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                part = client.recv(65536)
                if not part:
                    return [line.split()[1] for line in heard.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
                heard += part
            except TimeoutError:
                if drips:
                    client.sendall(b"x")
            except ConnectionError:
                return [line.split()[1] for line in heard.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    raise AssertionError("the connection was never closed")


def test_each_is_let_go_and_nobody_waits_for_them(database, behaviour):
    told, over = {}, threading.Event()

    def slow(kind, server):
        first, drips, _ = CLIENTS[kind]
        try:
            got = answers(server.port, first, drips)
        except Exception as error:
            got = repr(error)
        told.setdefault(kind, []).append(got)

    def quick(server):
        with httpx.Client(base_url=server.url, timeout=10) as http:
            while not over.is_set():
                reply = http.post("/v1/generate", json={"instruction": "count", "max_new_tokens": 2, "cache": False})
                told.setdefault("quick", set()).add(reply.status_code)

    with serve(FLYWHEEL_SERVING_BODY_SECONDS="1", FLYWHEEL_SERVING_RATE_LIMITS="{}") as server:
        person = threading.Thread(target=quick, args=(server,))
        crowd = [threading.Thread(target=slow, args=(kind, server)) for kind in CLIENTS for _ in range(8)]
        for thread in (person, *crowd):
            thread.start()
        for thread in crowd:
            thread.join()
        over.set()
        person.join()
        assert told.pop("quick") == {200}
        assert told == {kind: [wanted] * 8 for kind, (_, _, wanted) in CLIENTS.items()}
        line = next(line for line in server.client.get("/metrics").text.splitlines() if line.startswith("flywheel_running_requests "))
        assert float(line.split()[1]) == 0
