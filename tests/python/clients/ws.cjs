// The npm client `ws` for test_websocket_clients.py: does what the arguments say, and
// writes what happens as lines of JSON.
//
// Usage: node ws.cjs URL SCENARIO [OPTIONS as JSON]
"use strict";

const { createHash } = require("node:crypto");
const WebSocket = require("ws");

const [url, scenario, options = "{}"] = process.argv.slice(2);
const { protocols = [], ...more } = JSON.parse(options);
const socket = new WebSocket(url, protocols, more);

const say = (event, ...details) => console.log(JSON.stringify([event, ...details]));
const digest = (data) => createHash("sha256").update(data).digest("hex");
// Each message once: the answer to what has just been sent.
const answer = () =>
  new Promise((resolve) => socket.once("message", (data, isBinary) => resolve([data, isBinary])));

const scenarios = {
  // Messages of both kinds and many lengths come back as they were.
  async echo() {
    for (const text of ["text", "grün 🦀", "", "long".repeat(100_000)]) {
      const answered = answer();
      socket.send(text);
      const [data, isBinary] = await answered;
      if (isBinary || data.toString() !== text) throw new Error(`${text.length} is another text`);
    }
    for (const length of [0, 1, 125, 126, 65_535, 65_536, 1_000_000]) {
      const sent = Buffer.alloc(length, "payload ");
      const answered = answer();
      socket.send(sent);
      const [data, isBinary] = await answered;
      if (!isBinary || digest(data) !== digest(sent)) throw new Error(`${length} are other bytes`);
    }
    const fragmented = answer();
    socket.send("frag", { fin: false });
    socket.ping("between");
    socket.send("ment", { fin: true });
    say("fragments", (await fragmented)[0].toString());
    await new Promise((resolve) => {
      socket.once("pong", (data) => resolve(say("pong", data.toString())));
      socket.ping("are you there");
    });
    socket.close(4321, "enough");
  },

  // Many messages at once, answered in order.
  async burst() {
    const count = 2000;
    let next = 0;
    const done = new Promise((resolve) =>
      socket.on("message", (data) => {
        if (data.toString() !== `message ${next}`) throw new Error(`${data} instead of ${next}`);
        next += 1;
        if (next === count) resolve();
      }),
    );
    for (let number = 0; number < count; number += 1) socket.send(`message ${number}`);
    await done;
    say("answered", next);
    socket.close();
  },

  // Stays until the server ends it.
  async stay() {
    const answered = answer();
    socket.send("here");
    say("echo", (await answered)[0].toString());
  },
};

socket.on("open", () => {
  say("open", socket.protocol, socket.extensions);
  scenarios[scenario]().catch((error) => {
    say("failed", String(error));
    socket.terminate();
  });
});
socket.on("upgrade", (response) => say("upgrade", response.headers["x-one"] ?? null));
socket.on("unexpected-response", (request, response) => {
  say("refused", response.statusCode);
  request.destroy();
});
socket.on("error", (error) => say("error", error.message));
socket.on("close", (code, reason) => say("close", code, reason.toString()));
