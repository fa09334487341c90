// Heat maps of layers and heads: one indicator at a time, the models beside each other; a cell opens its head.

drawers.heads = (element, data) => {
  const explorer = data.explorer ? document.getElementById(data.explorer) : null;
  const select = make("select", {}, ...data.maps.map((map, at) => make("option", { value: at, text: map.label })));
  const scale = makeScale();
  const grids = make("div", { class: "grids" });
  const about = make("a", { class: "term", text: "What does it say?" });
  element.append(
    make("p", { class: "hint", text: "Rows are layers, columns are heads, both from 0; means over training runs. A cell opens its head in the explorer, as the first run has it." }),
    make("div", { class: "controls" }, make("label", { text: "Indicator" }, select), make("div", { class: "group" }, about, scale.element)),
    grids,
  );

  const three = (x) => (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e3 ? x.toPrecision(3) : short(x));

  const openable = (model, layers) => {
    return Boolean(explorer?.layersOf?.[model] === layers);
  };

  const grid = (map, model, low, high) => {
    const values = map.values[model];
    const heads = values[0].length;
    const head = make("tr", {}, make("td"), ...Array.from({ length: heads }, (_, h) => make("th", { scope: "col", text: h })));
    const opens = openable(model, values.length);
    const rows = values.map((row, layer) =>
      make(
        "tr",
        {},
        make("th", { scope: "row", text: layer }),
        ...row.map((value, at) => {
          if (value === null) return make("td", { text: "-" });
          const share = high > low ? (value - low) / (high - low) : 0;
          const style = `background:${css("weights", share)};color:${inkOn("weights", share)}`;
          const name = `${model}, layer ${layer}, head ${at}: ${short(value)}`;
          const open = () => explorer.dispatchEvent(new CustomEvent("open-head", { detail: { model, layer, head: at } }));
          const cell = opens
            ? make("button", { type: "button", class: "cell", style, text: three(value), "aria-label": `${name}. Open this head`, onclick: open })
            : make("span", { class: "cell", style, text: three(value) });
          return make("td", {}, cell);
        }),
      ),
    );
    const table = make("table", {}, make("caption", { text: model }), make("thead", {}, head), make("tbody", {}, ...rows));
    return make("div", { class: "grid scroll", tabindex: "0", role: "region", "aria-label": `${map.label} of ${model}` }, table);
  };

  const show = () => {
    const map = data.maps[select.value];
    const every = Object.values(map.values).flat(2).filter((x) => x !== null);
    const [low, high] = [Math.min(...every), Math.max(...every)];
    const entry = [...document.querySelectorAll(".glossary dt")].find((dt) => dt.textContent === map.term);
    about.hidden = !entry;
    if (entry) about.href = `#${entry.id}`;
    scale.set("weights", short(low), short(high), "one scale for all models");
    grids.replaceChildren(...Object.keys(map.values).map((model) => grid(map, model, low, high)));
  };
  select.addEventListener("change", show);
  show();
};
