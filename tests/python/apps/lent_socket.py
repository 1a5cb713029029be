"""WSGI applications that speak for themselves on ``gunicorn.socket``.

``app`` has one path for each thing that tests want to see; it does not know WebSockets, and
what it writes after its head are lines. ``flask`` has WebSockets of Flask-Sock and of
Flask-SocketIO.
"""

import hashlib
import socket
import threading

from flask import Flask
from flask_sock import Sock
from flask_socketio import SocketIO

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: lines\r\nConnection: Upgrade\r\n\r\n"

gates = {}
lock = threading.Lock()


def gate(name):
    """Something that one request waits for and another one opens."""
    with lock:
        return gates.setdefault(name, threading.Event())


def answer(start_response, body, status="200 OK"):
    body = body.encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def echo(environ, start_response):
    """Gives back what comes, and says goodbye when nothing more does."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD)
    while data := connection.recv(65536):
        connection.sendall(data)
    print("noted the end", environ["QUERY_STRING"], flush=True)
    connection.sendall(b"goodbye\n")
    raise StopIteration


def quick(environ, start_response):
    """Is through before the server can know that it has begun."""
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    raise StopIteration


def pieces(environ, start_response):
    """Begins with less than a status line."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD[:5])
    print("noted the beginning", flush=True)
    gate(environ["QUERY_STRING"]).wait()
    connection.sendall(HEAD[5:] + b"hello\n")
    raise StopIteration


def generator(environ, start_response):
    """Takes the connection while its answer is read."""
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    yield b""


def started_generator(environ, start_response):
    start_response("200 OK", [])
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    yield b"an answer"


def quiet(environ, start_response):
    """Returns what would be no answer."""
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    return []


def late(environ, start_response):
    """Answers twice."""
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    return answer(start_response, "an answer")


def boom(environ, start_response):
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    raise RuntimeError("boom")


def refused(environ, start_response):
    """Fails by an error that looks like that of a client who has left."""
    environ["gunicorn.socket"].sendall(HEAD + b"hello\n")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        socket.create_connection(nobody.getsockname())


def early_boom(environ, start_response):
    raise RuntimeError("boom")


def early_stop(environ, start_response):
    raise StopIteration


def teapot(environ, start_response):
    """Has another answer than a WebSocket's."""
    environ["gunicorn.socket"].sendall(b"HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\n\r\nno")
    raise StopIteration


def refuse(environ, start_response):
    return answer(start_response, "not you", "403 Forbidden")


class Meddler(list):
    """Writes to the socket when it has answered."""

    def close(self):
        self.gate.wait()
        try:
            self.connection.sendall(b"more")
        except OSError as error:
            print("noted", type(error).__name__, flush=True)


def both(environ, start_response):
    parts = Meddler(answer(start_response, "an answer"))
    parts.connection = environ["gunicorn.socket"]
    parts.gate = gate(environ["QUERY_STRING"])
    return parts


def closer(environ, start_response):
    """Wants nothing of the connection."""
    environ["gunicorn.socket"].close()
    gate(environ["QUERY_STRING"]).wait()
    return answer(start_response, "an answer")


def kept(environ, start_response):
    """Leaves the socket to a thread that outlives the request."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD)

    def read():
        while connection.recv(65536):
            pass
        print("noted the end of the thread", flush=True)

    threading.Thread(target=read).start()
    gate(environ["QUERY_STRING"]).wait()
    raise StopIteration


def stuck(environ, start_response):
    """Leaves it to a thread that neither reads nor closes it."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD)

    def hold():
        gate(environ["QUERY_STRING"]).wait()
        connection.close()

    threading.Thread(target=hold).start()
    raise StopIteration


def deaf(environ, start_response):
    """Takes nothing until it is allowed to; then tells what has come."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD)
    gate(environ["QUERY_STRING"]).wait()
    digest = hashlib.sha256()
    length = 0
    while data := connection.recv(65536):
        digest.update(data)
        length += len(data)
    connection.sendall(f"{length} {digest.hexdigest()}\n".encode())
    raise StopIteration


def talk(environ, start_response):
    """Sends more than anybody keeps."""
    connection = environ["gunicorn.socket"]
    connection.sendall(HEAD)
    sent = 0
    try:
        while sent < 64 * 1024 * 1024:
            connection.sendall(bytes(65536))
            sent += 65536
    except OSError as error:
        print("noted", type(error).__name__, sent, flush=True)
    raise StopIteration


def leave_much(environ, start_response):
    """Leaves more than a socket holds to a client that does not read."""
    connection = environ["gunicorn.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024 * 1024)
    connection.setblocking(False)
    connection.sendall(HEAD)
    try:
        while connection.send(bytes(65536)):
            pass
    except BlockingIOError:
        print("noted it is full", flush=True)
    raise StopIteration


def hang(environ, start_response):
    threading.Event().wait()


def offered(environ, start_response):
    """Tells whether there is a socket."""
    return answer(start_response, str("gunicorn.socket" in environ))


def open_gate(environ, start_response):
    gate(environ["QUERY_STRING"]).set()
    return answer(start_response, "open")


def app(environ, start_response):
    return globals()[environ["PATH_INFO"].strip("/").replace("-", "_")](environ, start_response)


flask = Flask(__name__)
sock = Sock(flask)
events = SocketIO(flask, async_mode="threading")


@flask.get("/ping")
def ping():
    return "pong"


@sock.route("/echo")
def echo_messages(socket):
    while (message := socket.receive()) != "enough":
        socket.send(message)


@events.on("echo")
def echo_event(data):
    return data
