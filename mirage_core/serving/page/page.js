// The page: what is asked, what came of it, and what an exchange makes of it.

let about = null; // what the server offers
let running = null; // what stops the answer that is arriving
let last = null; // what was asked last, and its answer
let typed = false; // whether the plan is the user's own

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) return askForKey(key !== null);
  element("trouble").textContent = error.message;
  element("trouble").hidden = false;
}

function clearTrouble() {
  element("trouble").hidden = true;
}

function askForKey(wrong) {
  key = null;
  element("access").hidden = false;
  element("key").focus();
  if (wrong) {
    element("trouble").textContent = "The server does not take this key.";
    element("trouble").hidden = false;
  }
}

const board = new Board(element("board"), {
  tool: () => chosen("tool"),
  changed: () => {
    clearTrouble();
    element("tools").hidden = board.map === null;
    if (board.map) element("level").value = board.map.length;
    if (board.plan && !typed) element("plan").value = board.plan;
  },
  failed: fail,
  empty: "Drop a picture here, or draw a maze.",
});

const otherBoard = new Board(element("other-board"), {
  tool: null,
  changed: () => {
    clearTrouble();
    showSwap();
  },
  failed: fail,
  empty: "Another picture goes here.",
});

function showSwap() {
  element("swap").disabled = !last || !otherBoard.picture || running !== null;
}

function showTask() {
  const task = chosen("task");
  element("plan-line").hidden = task !== "vsp-reasoning";
  element("own-line").hidden = task !== "own";
}

function busy(controller) {
  running = controller;
  element("go").disabled = controller !== null;
  element("stop").hidden = controller === null;
  element("output").setAttribute("aria-busy", String(controller !== null));
  showSwap();
}

// Run something that can be stopped; its errors are shown.
async function run(work) {
  const controller = new AbortController();
  clearTrouble();
  busy(controller);
  try {
    await work(controller.signal);
  } catch (error) {
    element("status").textContent = error.name === "AbortError" ? "Stopped." : "There is no answer.";
    fail(error);
  } finally {
    busy(null);
  }
}

async function questionParts() {
  const task = chosen("task");
  const plan = element("plan").value.toUpperCase().replace(/[\s,]/g, "");
  if (!board.picture) throw new Error("There is no picture yet: draw a maze, or choose a picture.");
  if (task === "own") {
    if (!element("own").value.trim()) throw new Error("Write your question first.");
    return { task, plan: "", parts: [{ type: "image" }, { type: "text", text: `\n${element("own").value}` }] };
  }
  const { parts } = await json("/page/question", { task, plan: task === "vsp-reasoning" ? plan : "" });
  return { task, plan, parts };
}

function more() {
  return { mirage: about.film ? { spans: true, film: true } : { spans: true } };
}

async function askModel(signal) {
  last = null;
  element("answers").hidden = true;
  element("conclusion").textContent = "";
  const asked = await questionParts();
  const now = { ...asked, picture: board.picture, map: board.map };
  for (const id of ["verdict", "walk", "film", "truth"]) element(id).hidden = true;
  element("frames").classList.remove("pairs");
  element("film").hidden = !about.film;
  element("no-film").hidden = about.film;
  element("status").textContent = "It looks.";
  const answer = new Answer(element("output"), element("frames"), element("status"));
  await answered(answer, about.name, withPicture(now.parts, now.picture), more(), signal);
  now.answer = answer.content;
  element("film").hidden = !element("frames").children.length;
  const cut = answer.ended === "length" ? " It was cut off at its limit." : "";
  const latents = answer.latents === 1 ? "1 latent" : `${answer.latents} latents`;
  element("status").textContent = `Done, with ${latents}.${cut}`;
  last = now;
  if (!now.map || now.task === "own") return;
  await showVerdict(now);
  if (about.film && answer.latents) await showTruth(now, answer);
}

// The true film beside the imagined one: the page knows the maze, and its world the film of a plan.
async function showTruth(asked, answer) {
  const plan = asked.task === "vsp-reasoning" ? asked.plan : "";
  const body = { task: asked.task, map: asked.map, plan, output: asked.answer, latents: answer.latents };
  const found = await json("/page/film", body);
  if (last !== asked) return; // another question was asked meanwhile
  addTruth(answer, found.frames);
  const whose = { asked: "the plan you asked about", answered: "the plan it wrote", shortest: "a shortest plan" }[found.plan];
  element("truth").textContent = whose ? `Beside it the true film of ${whose}.` : "No way leads to the goal, so there is no true film.";
  element("truth").hidden = false;
  element("frames").classList.toggle("pairs", Boolean(whose));
}

async function showVerdict(asked) {
  const { task, map, plan } = asked;
  const found = await json("/page/verdict", { task, map, plan: task === "vsp-reasoning" ? plan : "", output: asked.answer });
  const word = found.correct ? "right" : "wrong";
  const ends = { success: "reaches the goal", hole: "ends in a hole", safe: "ends on the ice" }[found.outcome];
  const read = found.parsed === null ? "no answer can be read off it" : `read as ${found.parsed}`;
  const told = found.picture ? `; the plan ${ends}` : "";
  element("verdict").replaceChildren(make("span", { className: `verdict ${word}`, textContent: word }), `${read}${told}`);
  element("verdict").className = `line ${word}`;
  element("verdict").hidden = false;
  element("walk").hidden = !found.picture;
  if (found.picture) Object.assign(element("walk"), { src: found.picture, alt: `the plan, which ${ends}` });
}

async function exchange(signal) {
  const other = otherBoard.picture;
  element("conclusion").textContent = "It answers about the other picture …";
  element("answers").hidden = false;
  for (const id of ["other-answer", "exchanged-answer"]) element(id).textContent = "";
  element("own-answer").textContent = last.answer;
  const theirs = await answered(new Answer(), about.name, withPicture(last.parts, other), {}, signal);
  element("other-answer").textContent = theirs.content;
  element("conclusion").textContent = "It answers with the other picture's latents …";
  const mirage = { latents_of: { image_url: { url: other } } };
  const swapped = await answered(new Answer(), about.name, withPicture(last.parts, last.picture), { mirage }, signal);
  element("exchanged-answer").textContent = swapped.content;
  element("conclusion").textContent = verdictOnExchange(last.answer, theirs.content, swapped.content);
}

function verdictOnExchange(own, theirs, swapped) {
  if (own === theirs && own === swapped) return "Both pictures have the same answer, and the exchange leaves it: try another picture.";
  if (swapped === own) return "The answer stays: the latents' content did not decide it here.";
  if (swapped === theirs) return "The answer becomes the other picture's: it followed the latents.";
  return "The answer becomes a third one: it was moved by the latents, but did not follow them.";
}

async function begin() {
  try {
    about = await json("/page/about");
  } catch (error) {
    return fail(error);
  }
  clearTrouble();
  element("access").hidden = true;
  element("model").textContent = about.name;
  document.title = `Mirage: ${about.name}`;
  element("exchange").hidden = !about.exchange;
  element("level").replaceChildren(...about.levels.map((level) => make("option", { value: level, textContent: `${level} cells` })));
  element("level").value = 4;
  document.querySelector(`input[name="task"][value="${about.task}"]`).checked = true;
  showTask();
  await board.draw(4);
}

element("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = element("key").value.trim();
  element("key").value = "";
  begin();
});
element("question").addEventListener("submit", (event) => {
  event.preventDefault();
  if (about && !running) run(askModel);
});
element("stop").addEventListener("click", () => running?.abort());
element("draw").addEventListener("click", () => board.draw(Number(element("level").value)));
element("other-draw").addEventListener("click", () => otherBoard.draw((last?.map ?? board.map)?.length ?? Number(element("level").value)));
element("swap").addEventListener("click", () => run(async (signal) => {
  try {
    await exchange(signal);
  } catch (error) {
    element("conclusion").textContent = "";
    throw error;
  }
}));
for (const [id, target] of [["file", board], ["other-file", otherBoard]]) {
  element(id).addEventListener("change", (event) => {
    target.read(event.target.files[0]);
    event.target.value = "";
  });
}
for (const radio of document.querySelectorAll('input[name="task"]')) radio.addEventListener("change", showTask);
for (const button of document.querySelectorAll("[data-move]")) {
  button.addEventListener("click", () => {
    if (!typed) element("plan").value = "";
    typed = true;
    element("plan").value += button.dataset.move;
  });
}
element("plan").addEventListener("input", () => { typed = element("plan").value !== ""; });
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) board.read(file);
});
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
begin();
