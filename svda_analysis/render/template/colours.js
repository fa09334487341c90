// Colour scales, and the bar that says what a colour means.

const anchors = {
  weights: ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"],
  differences: ["#08306b", "#2171b5", "#6baed6", "#c6dbef", "#f7f7f7", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704"],
};

/** 256 colours, three bytes each. */
function colourTable(name) {
  const stops = anchors[name].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) table[3 * i + c] = Math.round(stops[low][c] + (place - low) * (stops[low + 1][c] - stops[low][c]));
  }
  return table;
}

const colours = { weights: colourTable("weights"), differences: colourTable("differences") };

/** The place in its table of a share of the scale: weights from 0 to 1, differences from -1 to 1. */
function step(name, share) {
  const x = name === "differences" ? (share + 1) / 2 : share;
  return Math.max(0, Math.min(255, Math.round(x * 255)));
}

function css(name, share) {
  const at = 3 * step(name, share);
  return `rgb(${colours[name][at]},${colours[name][at + 1]},${colours[name][at + 2]})`;
}

/** Black or white, whichever reads better on that colour. */
function inkOn(name, share) {
  const at = 3 * step(name, share);
  const [r, g, b] = [0, 1, 2].map((c) => (colours[name][at + c] / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

function paintBar(canvas, name) {
  canvas.width = 256;
  canvas.height = 1;
  const pixels = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = colours[name][3 * i + c];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A colour bar with its ends; set(name, low, high, words) says what it shows. */
function makeScale() {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const [low, high, words] = [make("span"), make("span"), make("span")];
  const element = make("div", { class: "scale" }, low, canvas, high, words);
  let painted = "";
  const set = (name, from, to, text) => {
    if (painted !== name) paintBar(canvas, (painted = name));
    low.textContent = from;
    high.textContent = to;
    words.textContent = text;
  };
  return { element, set };
}

/** Three digits that mean something. */
function short(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e5 || size < 1e-4 ? x.toExponential(1) : String(parseFloat(x.toPrecision(3)));
}
