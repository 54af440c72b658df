// A picture: a maze whose cells can be changed, or any other.

const ICE = 0, START = 1, GOAL = 2, HOLE = -1;
const NAMES = { [ICE]: "ice", [START]: "start", [GOAL]: "goal", [HOLE]: "hole" };

const element = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

class Board {
  // tool(): what a cell is changed to; null: cells cannot be changed. changed(): called with every new picture.
  constructor(root, { tool, changed, failed, empty }) {
    Object.assign(this, { root, tool, changed, failed, picture: null, map: null, plan: null, turn: 0 });
    root.append(make("p", { className: "empty", textContent: empty }));
    root.addEventListener("dragover", (event) => {
      event.preventDefault();
      root.classList.add("over");
    });
    root.addEventListener("dragleave", () => root.classList.remove("over"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      root.classList.remove("over");
      this.read(event.dataTransfer.files[0]);
    });
  }

  async draw(level) {
    await this.load({ level });
  }

  // A file of the user's: shown as it is; where it is a maze of the benchmark's look, its cells can be changed.
  async read(file) {
    if (!file) return;
    const picture = await new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = failed;
      reader.readAsDataURL(file);
    }).catch(() => null);
    if (picture === null) this.failed(new Error("The file could not be read."));
    else await this.load({ picture });
  }

  async load(asked, focus = null) {
    const turn = ++this.turn;
    try {
      const found = await json("/page/maze", asked);
      if (turn !== this.turn) return; // another picture came meanwhile
      this.map = found.map;
      this.plan = found.plan;
      this.picture = found.picture ?? asked.picture;
      this.show(focus);
      this.changed();
    } catch (error) {
      if (turn === this.turn) this.failed(error);
    }
  }

  show(focus) {
    const what = this.map ? `a maze of ${this.map.length} by ${this.map.length} cells` : "your picture";
    this.root.replaceChildren(make("img", { src: this.picture, alt: what }));
    this.root.classList.add("full");
    this.root.classList.toggle("maze", this.map !== null);
    if (this.map && this.tool) this.root.append(this.cells(focus));
  }

  // One button a cell; Tab reaches one of them, arrows move on from there.
  cells(focus) {
    const side = this.map.length;
    const grid = make("div", { className: "cells" });
    grid.style.gridTemplate = `repeat(${side}, 1fr) / repeat(${side}, 1fr)`;
    const buttons = this.map.flat().map((kind, at) => {
      const [row, column] = [Math.floor(at / side), at % side];
      const button = make("button", { type: "button", tabIndex: at === (focus ?? 0) ? 0 : -1 });
      button.setAttribute("aria-label", `row ${row + 1}, column ${column + 1}: ${NAMES[kind]}`);
      button.addEventListener("click", () => this.change(row, column));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowUp: -side, ArrowDown: side, ArrowLeft: -1, ArrowRight: 1 }[event.key];
        const sideways = Math.abs(step) === 1 && Math.floor((at + step) / side) !== row;
        if (step === undefined || sideways || !buttons[at + step]) return;
        event.preventDefault();
        button.tabIndex = -1;
        buttons[at + step].tabIndex = 0;
        buttons[at + step].focus();
      });
      return button;
    });
    grid.append(...buttons);
    if (focus !== null) requestAnimationFrame(() => buttons[focus].focus());
    return grid;
  }

  change(row, column) {
    const wanted = { hole: HOLE, start: START, goal: GOAL }[this.tool()];
    const kind = this.map[row][column];
    if (kind === START || kind === GOAL) {
      if (kind !== wanted) this.failed(new Error("A maze needs its start and its goal: put it on another cell first."));
      return;
    }
    const map = this.map.map((line) => line.map((cell) => (wanted !== HOLE && cell === wanted ? ICE : cell)));
    map[row][column] = wanted === HOLE && kind === HOLE ? ICE : wanted;
    this.load({ map }, row * map.length + column);
  }
}
