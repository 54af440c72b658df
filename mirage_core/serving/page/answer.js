// An answer while it arrives: its text, its thoughts, and its latents in their places, with the film beside them.

class Answer {
  // output, frames, status: where it is shown; null: it is only read.
  constructor(output = null, frames = null, status = null) {
    Object.assign(this, { output, frames, status, content: "", latents: 0, film: [], span: null, ended: null });
    output?.replaceChildren();
    frames?.replaceChildren();
  }

  add(event) {
    const choice = event.choices[0];
    if (!choice) return;
    const { delta } = choice;
    if (delta.reasoning) this.text(delta.reasoning, true);
    if (delta.content) this.text(delta.content, false);
    if (delta.spans) this.latent();
    for (const frame of delta.film ?? []) this.frame(frame);
    if (choice.finish_reason) this.ended = choice.finish_reason;
  }

  text(text, thought) {
    if (!thought) this.content += text;
    if (!this.output) return;
    this.span = null;
    this.output.append(thought ? make("span", { className: "thought", textContent: text }) : text);
    if (this.status) this.status.textContent = "It writes.";
  }

  latent() {
    this.latents += 1;
    if (!this.output) return;
    if (!this.span) {
      this.span = make("span", { className: "latents" });
      this.span.setAttribute("role", "img");
      this.output.append(this.span);
    }
    const dot = make("i", { className: "new", title: `latent ${this.latents}` });
    dot.dataset.latent = this.latents - 1;
    this.span.append(dot);
    this.span.setAttribute("aria-label", `${this.span.children.length} latents`);
    if (this.status) this.status.textContent = `It imagines: latent ${this.latents}.`;
  }

  frame(frame) {
    this.film.push(frame);
    if (!this.frames) return;
    const about = `Latent ${frame.index + 1}`;
    const item = make("li");
    const pictures = make("div", { className: "pair" });
    if (frame.picture) pictures.append(make("img", { src: frame.picture, alt: `${about} imagines ${frame.caption}` }));
    item.append(pictures, make("b", { textContent: about }), ` ${frame.caption}`);
    const dot = this.output?.querySelector(`[data-latent="${frame.index}"]`);
    if (dot) dot.title = `${about}: ${frame.caption}`;
    const light = (on) => () => [dot, item].forEach((each) => each?.classList.toggle("lit", on));
    for (const each of [dot, item]) {
      each?.addEventListener("pointerenter", light(true));
      each?.addEventListener("pointerleave", light(false));
    }
    this.frames.append(item);
  }
}

// Put the true frame of each latent beside what it imagines; null: it is held to none.
function addTruth(answer, truth) {
  truth.forEach((frame, at) => {
    const item = answer.frames?.children[at];
    if (!frame || !item) return;
    item.querySelector(".pair").append(make("img", { src: frame.picture, alt: `true frame ${frame.frame + 1}: ${frame.caption}` }));
    const { place, kinds } = answer.film[at];
    const there = !place || !frame.places.length || frame.places.some((each) => each.join() === place.join());
    const right = there && (!kinds?.length || frame.kind === null || kinds[0].name === frame.kind);
    if (frame.caption) item.append(make("span", { className: right ? "true right" : "true wrong", textContent: `true: ${frame.caption}` }));
  });
}

// One answer to the end. parts: the message; more: fields of the request.
async function answered(answer, model, parts, more, signal) {
  const body = { model, messages: [{ role: "user", content: parts }], temperature: 0, ...more };
  for await (const event of events(body, signal)) answer.add(event);
  return answer;
}

function withPicture(parts, picture) {
  return parts.map((part) => (part.type === "image" ? { type: "image_url", image_url: { url: picture } } : part));
}
