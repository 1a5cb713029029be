"""A Flask application with one endpoint."""

from flask import Flask

app = Flask(__name__)


@app.get("/ping")
def ping():
    """Answer with a small JSON document."""
    return {"message": "pong"}
