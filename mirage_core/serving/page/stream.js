// The server: JSON there and back, and answers that arrive event by event.

let key = null; // in memory only

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer: is it still running?", 0);
  }
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => null);
  throw new Refused(told?.error?.message ?? `the server answers with status ${reply.status}`, reply.status);
}

async function json(path, body) {
  return (await ask(path, body)).json();
}

// The events of a stream; a stream that ends before its last line is an error.
async function* events(body, signal) {
  const reply = await ask("/v1/chat/completions", { ...body, stream: true }, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused("The answer broke off: the server went away.", 0);
    const lines = (held + value).split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message, event.error.code);
      yield event;
    }
  }
}
