// What every page does: tables that sort and filter, and words that are explained where they stand.

const drawers = {}; // by kind of widget: a function of its element and its data

/** An element with properties ("text", "on...", attributes) and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** What a cell is sorted by: its first number, else its text. */
function sortKey(text) {
  const found = text.replace(/(\d)[ ,](?=\d{3})/g, "$1").replace("\u2212", "-").match(/^[<[x ]*([-+]?\d+(\.\d+)?(e[-+]?\d+)?)/i);
  return found ? parseFloat(found[1]) : text === "-" ? -Infinity : text.toLowerCase();
}

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, at) => ({ row, at, key: sortKey(row.cells[column].textContent.trim()) }));
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    if (typeof a.key !== typeof b.key) return typeof a.key === "number" ? -1 : 1;
    return a.key < b.key ? -sign : a.key > b.key ? sign : a.at - b.at;
  });
  body.append(...rows.map((each) => each.row));
}

function enableSorting(table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = make("button", { type: "button", class: "sort", text: cell.textContent });
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table, column, descending);
    });
  });
}

function enableFilter(frame, table) {
  const rows = [...table.tBodies[0].rows];
  const count = make("span", { class: "count", "aria-live": "polite" });
  const input = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter ${frame.getAttribute("aria-label")}` });
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
  frame.before(make("p", { class: "filter" }, input, count));
}

function enableTables() {
  for (const frame of document.querySelectorAll(".scroll")) {
    const table = frame.querySelector("table");
    const rows = table.tBodies[0].rows.length;
    if (rows > 2) enableSorting(table);
    if (rows > 7) enableFilter(frame, table);
  }
}

/** A word's entry in the list of numbers, beside the word, while the pointer or the focus is on it. */
function enableTerms() {
  const note = make("div", { class: "note", role: "tooltip", id: "note", hidden: true });
  document.body.append(note);
  const hide = () => {
    note.hidden = true;
  };
  const show = (event) => {
    const word = event.target.closest?.("a.term");
    if (!word) return;
    const entry = document.getElementById(word.hash.slice(1));
    if (!entry) return;
    note.replaceChildren(...[...entry.nextElementSibling.children].map((child) => child.cloneNode(true)));
    note.hidden = false;
    word.setAttribute("aria-describedby", "note");
    const at = word.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, innerWidth - note.offsetWidth - 8));
    const below = at.bottom + note.offsetHeight + 12 < innerHeight;
    note.style.left = `${left + scrollX}px`;
    note.style.top = `${(below ? at.bottom + 6 : Math.max(at.top - note.offsetHeight - 6, 4)) + scrollY}px`;
  };
  document.addEventListener("pointerover", (event) => (event.target.closest?.("a.term") ? show(event) : hide()));
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

function start() {
  enableTables();
  for (const element of document.querySelectorAll(".widget")) {
    const data = document.querySelector(`script[data-of="${CSS.escape(element.id)}"]`);
    element.querySelector(".waiting")?.remove();
    drawers[element.dataset.kind](element, JSON.parse(data.textContent));
  }
  enableTerms();
  document.documentElement.dataset.ready = "yes";
}
