// Attention over an image, row by row: who looks where. Models beside each other, on the same patch.

/** Compressed text -> bytes. */
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function halfToFloat(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024);
}

/** Packed rows (render/packing.py) -> Float32Array of all of them. */
async function unpack(packed) {
  const bytes = await inflate(packed.data);
  const width = packed.shape.at(-1);
  const count = packed.shape.reduce((a, b) => a * b, 1) / width;
  const rows = new Float32Array(count * width);
  const view = new DataView(bytes.buffer);
  if (packed.kind === "f16") {
    for (let i = 0; i < rows.length; i++) rows[i] = halfToFloat(view.getUint16(2 * i, true));
    return rows;
  }
  const steps = bytes.subarray(5 * count); // behind the scales and how many levels each row has
  if (packed.above) for (let i = width; i < steps.length; i++) steps[i] += steps[i - width];
  for (let r = 0; r < count; r++) {
    const scale = view.getFloat32(4 * r, true) / bytes[4 * count + r] ** 2;
    for (let c = r * width; c < (r + 1) * width; c++) rows[c] = steps[c] ** 2 * scale;
  }
  return rows;
}

/** A model's rows, unpacked when they are first asked for. */
class Model {
  constructor(data) {
    Object.assign(this, data);
    this.patches = this.grid[0] * this.grid[1] * this.frames;
    this.columns = this.grid[1] * this.frames;
    this.kept = new Map();
  }

  packed(image, part) {
    if (part === "trace") return this.trace?.rows;
    return typeof part === "number" ? this.images[image].layers[part] : this.images[image][part];
  }

  has(image, part) {
    return Boolean(this.packed(image, part));
  }

  /** Unpacks a part of an image (a layer's number, "rollout", "relevance"; "trace"), at most some 60 at a time. */
  async load(image, part) {
    const key = part === "trace" ? part : `${image} ${part}`;
    if (!this.kept.has(key)) {
      if (this.kept.size > 60) this.kept.delete(this.kept.keys().next().value);
      this.kept.set(key, await unpack(this.packed(image, part)));
    }
    return this.kept.get(key);
  }

  held(image, part) {
    return this.kept.get(part === "trace" ? part : `${image} ${part}`);
  }

  /** The row of token `query`: of a head, or the mean over heads; Float32Array of N. */
  row(image, part, head, query) {
    const [all, N] = [this.held(image, part), this.tokens];
    if (typeof part !== "number") return all.subarray(query * N, (query + 1) * N);
    if (head !== "mean") return all.subarray((head * N + query) * N, (head * N + query + 1) * N);
    const mean = new Float32Array(N);
    for (let h = 0; h < this.heads; h++) for (let k = 0; k < N; k++) mean[k] += all[(h * N + query) * N + k] / this.heads;
    return mean;
  }

  /** What CLS paid to the patches after an epoch, mean over heads: the other tokens of the row are not known. */
  tracedRow(at, image, layer) {
    const [count, layers, row] = [this.trace.images, this.layers, new Float32Array(this.tokens)];
    const from = ((at * count + image) * layers + layer) * this.patches;
    row.set(this.held(image, "trace").subarray(from, from + this.patches), this.prefix);
    return row;
  }

  /** The place of a token in the picture, [row, column]; null of one that is no patch. */
  place(token) {
    const patch = token - this.prefix;
    if (patch < 0 || patch >= this.patches) return null;
    const [rows, columns] = this.grid;
    const frame = Math.floor(patch / (rows * columns));
    const within = patch % (rows * columns);
    return [Math.floor(within / columns), frame * columns + (within % columns)];
  }

  token(row, column) {
    const [rows, columns] = this.grid;
    const frame = Math.floor(column / columns);
    return this.prefix + frame * rows * columns + row * columns + (column % columns);
  }

  /** What a token is called. */
  nameOf(token) {
    const place = this.place(token);
    if (place) return `patch at row ${place[0]}, column ${place[1]}`;
    if (token < this.prefix) return token || !this.class_token ? `token ${token}` : "CLS";
    return `token behind ${token - this.prefix - this.patches}`;
  }

  /** The token of another model that lies where one of this model does. */
  likewise(other, token) {
    const place = other.place(token);
    if (!place) return token < other.prefix ? Math.min(token, Math.max(this.prefix - 1, 0)) : this.tokens - 1;
    const scaled = [(place[0] + 0.5) / other.grid[0], (place[1] + 0.5) / other.columns];
    return this.token(Math.floor(scaled[0] * this.grid[0]), Math.floor(scaled[1] * this.columns));
  }
}

/** Entropy of a row in nats. */
function entropyOf(row) {
  let [sum, entropy] = [0, 0];
  for (const x of row) sum += x;
  for (const x of row) if (x > 0) entropy -= (x / sum) * Math.log(x / sum);
  return entropy;
}

function paint(canvas, model, values, most, name, alpha = 1) {
  const [rows, columns] = [model.grid[0], model.columns];
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  const table = colours[name];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const value = values[model.token(r, c)];
      const from = 3 * step(name, most > 0 ? value / most : 0);
      const to = 4 * (r * columns + c);
      for (let k = 0; k < 3; k++) pixels.data[to + k] = table[from + k];
      pixels.data[to + 3] = Math.round(255 * alpha);
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The largest weight on a patch. */
function largest(model, row) {
  let most = 0;
  for (let k = model.prefix; k < model.prefix + model.patches; k++) most = Math.max(most, Math.abs(row[k]));
  return most;
}

class Explorer {
  constructor(element, data) {
    this.element = element;
    this.address = `#${element.id}?`; // begins the address of a view
    this.data = data;
    this.models = data.models.map((model) => new Model(model));
    element.layersOf = Object.fromEntries(this.models.map((model) => [model.name, model.layers]));
    const second = this.models.length > 1 ? 1 : -1;
    this.state = { image: 0, left: 0, right: second, what: "attention", layer: this.models[0].layers - 1, head: "mean", query: 0, epoch: -1, scale: "own", difference: false, matched: false, opacity: 0.7 };
    this.pinned = false;
    this.build();
    this.read();
    addEventListener("hashchange", () => {
      if (this.read()) this.update();
    });
    element.addEventListener("open-head", (event) => this.open(event.detail));
    this.show();
  }

  // --- what is shown ---

  get shown() {
    const { left, right } = this.state;
    return [this.models[left], ...(right >= 0 ? [this.models[right]] : [])];
  }

  get part() {
    return this.state.what === "attention" ? this.state.layer : this.state.what;
  }

  layerOf(model) {
    return Math.min(this.state.layer, model.layers - 1);
  }

  partOf(model) {
    return this.state.what === "attention" ? this.layerOf(model) : this.state.what;
  }

  /** Epochs of the first model's trace, where it speaks of this image; the slider's last place is the checkpoint. */
  get epochs() {
    const model = this.shown.find((one) => one.trace && this.state.image < one.trace.images);
    return this.state.what === "attention" && model ? model.trace.epochs : [];
  }

  get traced() {
    return this.epochs.length > 0 && this.state.epoch >= 0 && this.state.epoch < this.epochs.length;
  }

  headOf(model) {
    const { head, matched } = this.state;
    if (head === "mean" || this.traced) return "mean";
    if (model !== this.shown[0] && matched) return this.partner(model, head);
    return Math.min(head, model.heads - 1);
  }

  /** The partner of the first model's head in another model; null where it has none. */
  partner(model, head) {
    const first = this.shown[0].name;
    for (const pair of this.data.matched) {
      const layers = pair.layers[this.state.layer] ?? {};
      if (pair.model === first && pair.baseline === model.name) return layers[head] ?? null;
      if (pair.baseline === first && pair.model === model.name) {
        const found = Object.entries(layers).find(([, partner]) => partner === head);
        return found ? Number(found[0]) : null;
      }
    }
    return null;
  }

  get canMatch() {
    const names = this.shown.map((model) => model.name);
    return names.length > 1 && this.data.matched.some((pair) => names.includes(pair.model) && names.includes(pair.baseline));
  }

  queryOf(model) {
    return model === this.shown[0] ? this.state.query : model.likewise(this.shown[0], this.state.query);
  }

  /** The row that a pane shows; null where there is none. */
  rowOf(model) {
    if (this.traced) {
      const epoch = this.epochs[this.state.epoch];
      const at = model.trace ? model.trace.epochs.indexOf(epoch) : -1;
      return at < 0 || this.state.image >= model.trace.images ? null : model.tracedRow(at, this.state.image, this.layerOf(model));
    }
    const head = this.headOf(model);
    if (head === null || !model.has(this.state.image, this.partOf(model))) return null;
    return model.row(this.state.image, this.partOf(model), head, this.queryOf(model));
  }

  // --- the parts ---

  build() {
    const of = (label, control) => make("label", { text: label }, control);
    const check = (name, label) => {
      const box = make("input", { type: "checkbox", onchange: () => this.set({ [name]: box.checked }) });
      this[`${name}Box`] = make("label", { class: "check" }, box, label);
      this[`${name}Box`].box = box;
      return this[`${name}Box`];
    };
    const choice = (name, options, change) => {
      const select = make("select", {}, ...options.map(([value, text]) => make("option", { value, text })));
      select.addEventListener("change", () => this.set(change(select.value)));
      return (this[`${name}Select`] = select);
    };
    const range = (name, change) => {
      const input = make("input", { type: "range", min: 0, step: 1 });
      input.addEventListener("input", () => this.set(change(Number(input.value))));
      return (this[`${name}Range`] = input);
    };
    const named = this.models.map((model, at) => [at, model.name]);
    this.pictures = make("div", { class: "pictures", role: "group", "aria-label": "Images" });
    this.layerLabel = make("label", {}, make("span"), range("layer", (layer) => ({ layer })));
    this.epochLabel = make("label", {}, make("span"), range("epoch", (at) => ({ epoch: at >= this.epochs.length ? -1 : at, query: 0 })));
    const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05 });
    opacity.addEventListener("input", () => this.set({ opacity: Number(opacity.value) }));
    this.opacityRange = opacity;
    const controls = make(
      "div",
      { class: "controls" },
      of("Show", choice("what", [["attention", "attention"], ["rollout", "rollout"], ["relevance", "relevance"]], (what) => ({ what, epoch: -1 }))),
      this.layerLabel,
      this.epochLabel,
      of("Model", choice("left", named, (value) => ({ left: Number(value) }))),
      of("Beside it", choice("right", [[-1, "nothing"], ...named], (value) => ({ right: Number(value) }))),
      of("Colours to", choice("scale", [["own", "the maximum of each"], ["shared", "the maximum of both"]], (scale) => ({ scale }))),
      of("Map over image", opacity),
      check("difference", "difference"),
      check("matched", "matched heads"),
    );
    this.panes = make("div", { class: "panes" });
    this.spoken = make("div", { class: "hidden", "aria-live": "polite" });
    const saves = ["png", "svg"].map((kind) => make("button", { type: "button", class: "button save", text: `Save ${kind.toUpperCase()}`, onclick: () => this.save(kind) }));
    this.element.append(
      make("p", {
        class: "hint",
        text: "Point at a patch to see where it looks; click to hold it and read single weights. With the keyboard: arrows move, Home is the first token, + and - change the layer. The address of the page holds the view.",
      }),
      this.pictures,
      controls,
      this.panes,
      make("div", { class: "row" }, ...saves),
      this.spoken,
    );
    this.models[0].images.forEach((image, at) => this.pictures.append(this.thumbnail(image, at)));
  }

  thumbnail(image, at) {
    const picture = make("img", { src: this.data.pictures[image.picture], alt: "", loading: "lazy" });
    const name = `Image ${at}${image.label ? `, ${image.label}` : ""}`;
    return make("button", { type: "button", "aria-label": name, title: name, onclick: () => this.set({ image: at }) }, picture);
  }

  makePane(model, difference) {
    const pane = { model, difference, title: make("h3"), sub: make("p", { class: "sub" }), scale: makeScale() };
    pane.image = make("img", { alt: "" });
    pane.canvas = make("canvas", { "aria-hidden": "true" });
    pane.query = make("div", { class: "query" });
    pane.stage = make("div", { class: "stage", tabindex: "0", role: "application" }, pane.image, pane.canvas, pane.query);
    pane.readout = make("p", { class: "readout" });
    pane.tokens = make("div", { class: "row tokens" });
    pane.strip = make("div", { class: "strip", role: "group", "aria-label": `Heads of ${model.name}` });
    pane.numbers = make("details", { class: "numbers" }, make("summary", { text: "This row as numbers" }));
    pane.numbers.addEventListener("toggle", () => this.fillNumbers(pane));
    pane.element = make("article", { class: "pane" }, pane.title, pane.sub, pane.stage, pane.tokens, pane.scale.element, pane.readout, pane.strip, pane.numbers);
    pane.stage.addEventListener("pointermove", (event) => this.point(pane, event));
    pane.stage.addEventListener("pointerleave", () => {
      pane.key = null;
      if (this.pinned) this.drawSoon();
    });
    pane.stage.addEventListener("click", (event) => this.hold(pane, event));
    pane.stage.addEventListener("keydown", (event) => this.key(event));
    this.fillTokens(pane);
    if (!difference) this.fillStrip(pane);
    return pane;
  }

  fillTokens(pane) {
    const { model } = pane;
    const others = [...Array(model.prefix).keys(), ...Array.from({ length: model.suffix }, (_, k) => model.prefix + model.patches + k)];
    for (const token of pane.difference ? [] : others.slice(0, 12)) {
      const choose = () => this.set({ query: this.shown[0].likewise(model, token) });
      const button = make("button", { type: "button", class: "button", text: model.nameOf(token), onclick: choose });
      button.token = token;
      pane.tokens.append(button);
    }
  }

  fillStrip(pane) {
    for (const head of ["mean", ...Array(pane.model.heads).keys()]) {
      const canvas = make("canvas", { "aria-hidden": "true" });
      const choose = () => this.chooseHead(pane.model, head);
      const button = make("button", { type: "button", "aria-label": head === "mean" ? "Mean over heads" : `Head ${head}`, onclick: choose }, canvas, String(head));
      Object.assign(button, { head, canvas });
      pane.strip.append(button);
    }
  }

  /** A head of the second model is chosen by the first's that stands for it. */
  chooseHead(model, head) {
    const change = { head, epoch: -1, what: "attention" };
    if (head !== "mean" && model !== this.shown[0] && this.state.matched) {
      const partners = [...Array(this.shown[0].heads).keys()];
      const found = partners.find((mine) => this.partner(model, mine) === head);
      if (found === undefined) change.matched = false;
      else change.head = found;
    }
    this.set(change);
  }

  // --- what the reader does ---

  set(change) {
    Object.assign(this.state, change);
    return this.update();
  }

  open({ model, layer, head }) {
    const at = this.models.findIndex((one) => one.name === model);
    const state = { layer, head, what: "attention", epoch: -1 };
    if (!this.shown.includes(this.models[at])) state.left = at;
    else if (this.models[at] !== this.shown[0] && this.state.matched) state.matched = false;
    this.set(state);
    this.element.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  tokenAt(pane, event) {
    const box = pane.stage.getBoundingClientRect();
    const { model } = pane;
    const row = Math.floor(((event.clientY - box.top) / box.height) * model.grid[0]);
    const column = Math.floor(((event.clientX - box.left) / box.width) * model.columns);
    return model.token(Math.max(0, Math.min(model.grid[0] - 1, row)), Math.max(0, Math.min(model.columns - 1, column)));
  }

  point(pane, event) {
    const token = this.tokenAt(pane, event);
    if (this.pinned || this.traced) pane.key = token;
    else this.state.query = this.shown[0].likewise(pane.model, token);
    this.drawSoon();
  }

  /** Once a frame, however often the pointer moves. */
  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  hold(pane, event) {
    if (this.traced) return;
    this.pinned = !this.pinned;
    this.state.query = this.shown[0].likewise(pane.model, this.tokenAt(pane, event));
    pane.key = null;
    this.draw();
    this.remember();
  }

  async key(event) {
    const change = this.moved(event.key);
    if (!change) return;
    event.preventDefault();
    await this.set(change);
    this.spoken.textContent = this.paneList.map((pane) => pane.readout.textContent).join(". ");
  }

  /** What a key changes of the state; null of one that means nothing here. */
  moved(key) {
    const model = this.shown[0];
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const layers = { "+": 1, "-": -1 };
    if (key === "Home") return { query: 0 };
    if (key in layers) return { layer: Math.max(0, Math.min(model.layers - 1, this.state.layer + layers[key])) };
    if (!(key in moves)) return null;
    const place = model.place(this.state.query);
    const [row, column] = place ? [place[0] + moves[key][0], place[1] + moves[key][1]] : [0, 0];
    const inside = row >= 0 && column >= 0 && row < model.grid[0] && column < model.columns;
    return inside ? { query: model.token(row, column), epoch: -1 } : {};
  }

  // --- drawing ---

  /** After a change of anything but the patch: the view is shown, and its address noted. */
  async update() {
    await this.show();
    this.remember();
  }

  /** What is needed is unpacked, then all is drawn. */
  async show() {
    this.clamp();
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const { image } = this.state;
    await Promise.all(
      this.shown.flatMap((model) => [
        ...(model.has(image, this.partOf(model)) ? [model.load(image, this.partOf(model))] : []),
        ...(this.traced && model.trace ? [model.load(image, "trace")] : []),
      ]),
    );
    if (turn !== this.turn) return;
    this.arrange();
    this.draw();
    this.element.dataset.drawn = String(turn);
  }

  clamp() {
    const { state } = this;
    const within = (value, count, fallback) => (Number.isInteger(value) && value >= 0 && value < count ? value : fallback);
    state.left = within(state.left, this.models.length, 0);
    state.right = within(state.right, this.models.length, -1);
    if (state.right === state.left) state.right = -1;
    const model = this.shown[0];
    state.image = within(state.image, Math.min(...this.shown.map((one) => one.images.length)), 0);
    state.layer = within(state.layer, model.layers, model.layers - 1);
    state.query = within(state.query, model.tokens, 0);
    if (state.head !== "mean") state.head = within(state.head, model.heads, "mean");
    if (!["attention", "rollout", "relevance"].includes(state.what) || !this.shown.some((one) => one.has(state.image, this.part))) state.what = "attention";
    state.epoch = within(state.epoch, this.epochs.length, -1);
    if (!this.canMatch) state.matched = false;
    if (!this.canSubtract) state.difference = false;
    if (!(state.opacity >= 0 && state.opacity <= 1)) state.opacity = 0.7;
    if (state.scale !== "shared") state.scale = "own";
  }

  get canSubtract() {
    const [a, b] = this.shown;
    return Boolean(b && a.tokens === b.tokens && a.prefix === b.prefix && String(a.grid) === String(b.grid) && a.frames === b.frames);
  }

  /** The panes and the controls as the state asks for them. */
  arrange() {
    const { state } = this;
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const wanted = JSON.stringify([state.left, state.right, state.difference]);
    if (wanted !== this.arranged) {
      this.arranged = wanted;
      const [a, b] = this.shown;
      this.paneList = this.shown.map((model) => this.makePane(model, null));
      if (state.difference) this.paneList.push(this.makePane(a, b));
      this.panes.replaceChildren(...this.paneList.map((pane) => pane.element));
    }
    for (const name of ["what", "left", "right", "scale"]) this[`${name}Select`].value = state[name];
    const model = this.shown[0];
    for (const option of this.whatSelect.options) {
      option.hidden = option.disabled = option.value !== "attention" && !this.shown.some((one) => one.has(state.image, option.value));
    }
    this.layerRange.max = model.layers - 1;
    this.layerRange.value = state.layer;
    this.layerRange.disabled = state.what !== "attention";
    this.layerLabel.firstChild.textContent = `Layer ${state.layer} of 0 to ${model.layers - 1}`;
    const { epochs } = this;
    this.epochLabel.hidden = !epochs.length;
    this.epochRange.max = epochs.length;
    this.epochRange.value = this.traced ? state.epoch : epochs.length;
    this.epochLabel.firstChild.textContent = this.traced ? `After epoch ${epochs[state.epoch]} (CLS, mean over heads)` : "Epoch: this checkpoint";
    this.opacityRange.value = state.opacity;
    for (const name of ["difference", "matched"]) this[`${name}Box`].box.checked = state[name];
    this.matchedBox.hidden = !this.canMatch;
    this.differenceBox.hidden = !this.canSubtract;
    [...this.pictures.children].forEach((button, at) => button.setAttribute("aria-pressed", at === state.image));
    for (const pane of this.paneList) this.arrangePane(pane);
  }

  arrangePane(pane) {
    const { model } = pane;
    const image = model.images[this.state.image];
    pane.image.src = this.data.pictures[image.picture];
    pane.image.onload = () => {
      pane.stage.style.aspectRatio = `${pane.image.naturalWidth} / ${pane.image.naturalHeight}`;
      pane.image.classList.toggle("smooth", pane.image.naturalWidth > 100);
    };
    pane.stage.style.aspectRatio ||= `${model.columns} / ${model.grid[0]}`;
    pane.title.textContent = pane.difference ? `${model.name} minus ${pane.difference.name}` : model.name;
    pane.stage.setAttribute("aria-label", `${pane.title.textContent}: patches of the image. Arrow keys move, Home chooses the first token`);
    const said = image.prediction ? `says ${image.prediction}${image.label ? (image.label === image.prediction ? ", right" : `, it is ${image.label}`) : ""}` : image.label;
    pane.about = pane.difference ? "" : [model.about, said].filter(Boolean).join("; ");
  }

  /** Everything that depends on the patch; all rows are at hand. */
  draw() {
    const started = performance.now();
    const rows = this.shown.map((model) => this.rowOf(model));
    const tops = rows.map((row, at) => (row ? largest(this.shown[at], row) : 0));
    const most = this.state.scale === "shared" ? tops.map(() => Math.max(...tops)) : tops;
    this.paneList.forEach((pane, at) => {
      if (pane.difference) this.drawDifference(pane, rows);
      else this.drawPane(pane, rows[at], most[at], tops[at]);
    });
    this.element.dataset.took = (performance.now() - started).toFixed(2);
  }

  drawPane(pane, row, most, top) {
    const { model } = pane;
    const head = this.headOf(model);
    pane.row = row;
    pane.canvas.hidden = !row;
    if (row) paint(pane.canvas, model, row, most, "weights", this.state.opacity);
    const what = this.traced ? "" : this.state.what === "attention" ? (head === "mean" ? "mean over heads" : head === null ? "no partner" : `head ${head}`) : this.state.what;
    pane.sub.textContent = [what, pane.about].filter(Boolean).join("; ");
    pane.scale.set("weights", "0", short(most), this.state.scale === "shared" ? "shared scale" : "own maximum");
    pane.readout.replaceChildren(...(row ? this.reading(pane, row, top) : ["Nothing to show here."]));
    this.mark(pane);
    this.drawStrip(pane, head);
    if (pane.numbers.open) this.fillNumbers(pane);
  }

  drawDifference(pane, rows) {
    const [a, b] = rows;
    const row = a && b ? a.map((x, k) => x - b[k]) : null;
    const most = row ? largest(pane.model, row) : 0;
    pane.row = row;
    pane.canvas.hidden = !row;
    if (row) paint(pane.canvas, pane.model, row, most, "differences", Math.max(this.state.opacity, 0.5));
    pane.scale.set("differences", short(-most), short(most), "difference");
    const moved = row ? row.reduce((sum, x) => sum + Math.abs(x), 0) / 2 : 0;
    pane.readout.replaceChildren(!row ? "Nothing to show here." : this.traced ? "" : `Of the attention ${(100 * moved).toFixed(1)} % lies elsewhere (total variation).`);
    this.mark(pane);
    if (pane.numbers.open) this.fillNumbers(pane);
  }

  /** The row in words: its strongest patch, CLS, its entropy; of a pane that is held the weight under the pointer. */
  reading(pane, row, top) {
    const { model } = pane;
    const strongest = row.indexOf(top, model.prefix);
    const parts = [make("b", { text: model.nameOf(this.queryOf(model)) }), ` looks most at the ${model.nameOf(strongest)}: ${short(top)}`];
    if (model.class_token && !this.traced) parts.push(`; CLS ${short(row[0])}`);
    if (this.state.what !== "relevance" && !this.traced) {
      const entropy = entropyOf(row);
      parts.push(`. Entropy ${entropy.toFixed(2)} nats, ${(entropy / Math.log(row.length)).toFixed(2)} of uniform`);
    }
    if (pane.key !== undefined && pane.key !== null) parts.push(`. Here, ${model.nameOf(pane.key)}: `, make("b", { text: short(row[pane.key]) }));
    return parts;
  }

  mark(pane) {
    const place = this.traced ? null : pane.model.place(this.queryOf(pane.model));
    pane.query.hidden = !place;
    pane.query.classList.toggle("pinned", this.pinned);
    if (place) {
      const [height, width] = [100 / pane.model.grid[0], 100 / pane.model.columns];
      Object.assign(pane.query.style, { top: `${place[0] * height}%`, left: `${place[1] * width}%`, width: `${width}%`, height: `${height}%` });
    }
    for (const button of pane.tokens.children) button.setAttribute("aria-pressed", button.token === this.queryOf(pane.model));
  }

  drawStrip(pane, head) {
    const { model } = pane;
    const image = this.state.image;
    pane.strip.hidden = this.state.what !== "attention" || this.traced;
    if (pane.strip.hidden || !model.held(image, this.layerOf(model))) return;
    for (const button of pane.strip.children) {
      const row = model.row(image, this.layerOf(model), button.head, this.queryOf(model));
      paint(button.canvas, model, row, largest(model, row), "weights");
      button.setAttribute("aria-pressed", button.head === head);
    }
  }

  fillNumbers(pane) {
    if (!pane.numbers.open || !pane.row) return;
    const { model, row } = pane;
    const lines = Array.from({ length: model.grid[0] }, (_, r) =>
      make("tr", {}, ...Array.from({ length: model.columns }, (_, c) => make("td", { text: short(row[model.token(r, c)]) }))),
    );
    const frame = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Weights of the patches" }, make("table", {}, make("tbody", {}, ...lines)));
    pane.numbers.replaceChildren(pane.numbers.firstChild, frame);
  }

  // --- the address ---

  remember() {
    const { state } = this;
    const words = new URLSearchParams(Object.entries(state).map(([name, value]) => [name, typeof value === "boolean" ? Number(value) : value]));
    this.written = `${this.address}${words}`;
    try {
      history.replaceState(null, "", this.written);
    } catch {
      // an output cell of a notebook has no address
    }
  }

  /** Takes the view from the address; false where it holds none, or the one that is shown. */
  read() {
    if (!location.hash.startsWith(this.address) || location.hash === this.written) return false;
    for (const [name, text] of new URLSearchParams(location.hash.slice(this.address.length))) {
      if (!(name in this.state)) continue;
      const kind = typeof this.state[name];
      if (name === "head") this.state.head = text === "mean" ? "mean" : Number(text);
      else this.state[name] = kind === "boolean" ? text === "1" : kind === "number" ? Number(text) : text;
    }
    this.pinned = true;
    if (!this.seen) requestAnimationFrame(() => this.element.scrollIntoView());
    this.seen = true;
    return true;
  }

  // --- files ---

  /** The panes as one drawing. */
  drawing() {
    const [side, gap, top] = [360, 24, 64];
    const ratio = Math.max(...this.paneList.map((pane) => pane.image.naturalHeight / pane.image.naturalWidth || 1));
    const space = document.querySelector(".names-space").namespaceURI;
    const drawn = (tag, attributes, text) => {
      const element = document.createElementNS(space, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      if (text !== undefined) element.textContent = text;
      return element;
    };
    const [width, height] = [this.paneList.length * (side + gap) - gap + 32, side * ratio + top + 72];
    const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "Helvetica, Arial, sans-serif" });
    svg.append(drawn("rect", { width, height, fill: "#fff" }));
    this.paneList.forEach((pane, at) => {
      const { model } = pane;
      const x = 16 + at * (side + gap);
      const tall = (side * pane.image.naturalHeight) / pane.image.naturalWidth;
      const layer = this.state.what === "attention" ? `layer ${this.layerOf(model)}, ` : "";
      const epoch = this.traced ? `after epoch ${this.epochs[this.state.epoch]}, ` : "";
      svg.append(drawn("text", { x, y: 24, "font-size": 16, "font-weight": 600 }, pane.title.textContent));
      svg.append(drawn("text", { x, y: 46, "font-size": 12, fill: "#444" }, `${epoch}${layer}${pane.difference ? "difference" : pane.sub.textContent}`.slice(0, 64)));
      svg.append(drawn("image", { x, y: top, width: side, height: tall, href: pane.image.src, preserveAspectRatio: "none", style: "image-rendering:pixelated" }));
      if (pane.row) this.drawPatches(svg, drawn, pane, [x, top, side, tall]);
      const [low, bar, high] = pane.scale.element.children;
      svg.append(drawn("image", { x, y: top + tall + 12, width: 160, height: 12, href: bar.toDataURL(), preserveAspectRatio: "none" }));
      svg.append(drawn("text", { x, y: top + tall + 40, "font-size": 12 }, `${low.textContent} to ${high.textContent}, from ${model.nameOf(this.queryOf(model))}`));
    });
    return svg;
  }

  drawPatches(svg, drawn, pane, [x, y, width, height]) {
    const { model, row } = pane;
    const most = pane.difference || this.state.scale === "own" ? largest(model, row) : Math.max(...this.paneList.filter((one) => !one.difference && one.row).map((one) => largest(one.model, one.row)));
    const name = pane.difference ? "differences" : "weights";
    const [h, w] = [height / model.grid[0], width / model.columns];
    for (let r = 0; r < model.grid[0]; r++) {
      for (let c = 0; c < model.columns; c++) {
        const fill = css(name, most > 0 ? row[model.token(r, c)] / most : 0);
        svg.append(drawn("rect", { x: x + c * w, y: y + r * h, width: w + 0.05, height: h + 0.05, fill, "fill-opacity": this.state.opacity }));
      }
    }
    const place = this.traced ? null : model.place(this.queryOf(model));
    if (place) svg.append(drawn("rect", { x: x + place[1] * w, y: y + place[0] * h, width: w, height: h, fill: "none", stroke: "#fff", "stroke-width": 2 }));
  }

  async save(kind) {
    const svg = this.drawing();
    const text = new XMLSerializer().serializeToString(svg);
    const address = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    const name = `attention-${this.shown.map((model) => model.name.replace(/[^\w.-]+/g, "_")).join("-")}.${kind}`;
    if (kind === "svg") return this.download(address, name);
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    this.download(canvas.toDataURL("image/png"), name);
  }

  download(address, name) {
    make("a", { href: address, download: name }).click();
  }
}

drawers.explorer = (element, data) => new Explorer(element, data);
