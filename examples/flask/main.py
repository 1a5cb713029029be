"""A small Flask application with a factory."""

from collections.abc import Iterator

from flask import Flask, Response, jsonify, request


def create_app(greeting: str = "Hello") -> Flask:
    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return f"{greeting}, {request.args.get('name', 'World')}!"

    @app.get("/report")
    def report() -> Response:
        def lines() -> Iterator[str]:
            for number in range(1, 101):
                yield f"line {number}\n"

        return Response(lines(), mimetype="text/plain")

    @app.post("/upload")
    def upload() -> Response:
        file = request.files["file"]
        size = sum(len(part) for part in iter(lambda: file.stream.read(65536), b""))
        return jsonify(name=file.filename, size=size)

    return app
