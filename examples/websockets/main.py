"""A chat: every room is a URL, everybody in it hears what anyone says.

Rooms live in the memory of one worker: serve it with ``-w 1``, or put a broker such
as Redis between the workers.
"""

from collections import defaultdict

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

app = FastAPI()

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<ul id="log"></ul>
<form><input id="text" autofocus autocomplete="off"><button>Say</button></form>
<script>
const name = prompt("Who are you?") || "somebody";
const log = document.getElementById("log"), text = document.getElementById("text");
const show = (line) => {
  const item = document.createElement("li");
  item.textContent = line;
  log.append(item);
};
let socket;
function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const query = new URLSearchParams({ name });
  socket = new WebSocket(`${scheme}//${location.host}/rooms/lobby?${query}`);
  socket.onmessage = (event) => show(event.data);
  socket.onclose = (event) => {
    show(`closed: ${event.code} ${event.reason}`);
    // 1012: the server restarts, and the new one is there already.
    setTimeout(connect, event.code === 1012 ? 100 + Math.random() * 900 : 5000);
  };
}
document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  socket.send(text.value);
  text.value = "";
};
connect();
</script>
"""


class Room:
    """Those who are in one room."""

    def __init__(self) -> None:
        self.members: dict[WebSocket, str] = {}

    async def say(self, line: str) -> None:
        """Sends a line to everybody."""
        for member in list(self.members):
            try:
                await member.send_text(line)
            except WebSocketDisconnect:
                # Its own endpoint is about to learn of it.
                self.members.pop(member, None)


rooms: defaultdict[str, Room] = defaultdict(Room)


@app.get("/")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.websocket("/rooms/{room_name}")
async def chat(socket: WebSocket, room_name: str, name: str = "somebody") -> None:
    room = rooms[room_name]
    await socket.accept()
    room.members[socket] = name
    await room.say(f"{name} has come, {len(room.members)} here")
    try:
        async for text in socket.iter_text():
            await room.say(f"{name}: {text}")
    finally:
        room.members.pop(socket, None)
        await room.say(f"{name} has left")
