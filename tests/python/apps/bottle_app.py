"""A Bottle application."""

from pathlib import Path

from bottle import Bottle, request, static_file

app = Bottle()


@app.get("/hello/<name>")
def hello(name):
    return {"hello": name, "query": dict(request.query)}


@app.post("/form")
def form():
    return request.forms.text


@app.get("/static/<name>")
def static(name):
    return static_file(name, root=Path(__file__).parent)


@app.get("/stream")
def stream():
    yield "one "
    yield "two"
