"""A Flask application as people write them."""

import time
from io import BytesIO
from pathlib import Path

from flask import (
    Flask,
    Response,
    abort,
    g,
    jsonify,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
    url_for,
)


def create_app(name="flask", *, debug=False):  # noqa: C901 - one function for each route
    app = Flask(__name__)
    app.secret_key = "not secret"
    torn_down = []

    @app.before_request
    def begin():
        g.started = time.monotonic()

    @app.teardown_request
    def end(error):
        torn_down.append(request.path)

    @app.get("/")
    def index():
        return f"{name} {debug}"

    @app.get("/items/<int:number>")
    def item(number):
        return jsonify(number=number, query=request.args.to_dict(), host=request.host)

    @app.post("/echo")
    def echo():
        return jsonify(request.get_json())

    @app.post("/upload")
    def upload():
        file = request.files["file"]
        return jsonify(name=file.filename, size=len(file.read()), field=request.form["field"])

    @app.post("/raw")
    def raw():
        return str(sum(len(part) for part in iter(lambda: request.stream.read(65536), b"")))

    @app.get("/stream")
    def stream():
        def parts():
            for number in range(3):
                yield f"{number} {request.path}\n"

        return Response(stream_with_context(parts()), mimetype="text/plain")

    @app.get("/file")
    def file():
        return send_file(Path(__file__), mimetype="text/x-python")

    @app.get("/memory")
    def memory():
        return send_file(BytesIO(b"in memory"), download_name="memory.txt")

    @app.get("/count")
    def count():
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    @app.get("/away")
    def away():
        return redirect(url_for("item", number=7))

    @app.get("/fails")
    def fails():
        raise ValueError("on purpose")

    @app.get("/teapot")
    def teapot():
        abort(418)

    @app.get("/torn_down")
    def torn_down_requests():
        return jsonify(torn_down)

    return app


app = create_app()
