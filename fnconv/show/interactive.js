"use strict";
/* One layer, forward and backward, to be stepped through.  All geometry comes from fnconv, in `model`: windows[o][k] is
   the cell of the drawn frame under window element k of output o, inside[cell] the input's cell there (-1: padding), and
   links lists the [kernel, channel, first weight] that belong together.  Here are the products and the sums alone. */

function live(section) {
  const model = JSON.parse(section.querySelector("script").textContent);
  const { kind, windows, inside, links, tensors, counts, p } = model;
  const above = { I: "dI", W: "dW", b: "db", O: "δ" }; // each tensor stands above its gradient
  const base = name => ({ dI: "I", dW: "W", db: "b" })[name] ?? name;
  const v = {}; // the values of every tensor, a flat list each

  // ---- arithmetic: a term says that output O meets weight W at input cell I, in window n of kernel b ----

  const of = { O: [], I: [], W: [], b: [] }; // the terms of each output, input cell, weight, bias
  for (const [b, channel, first] of links)
    windows.forEach((frame, n) => model.order.forEach(k => {
      const term = { O: b * windows.length + n, I: channel * model.cells + inside[frame[k]], W: first + k, b, n };
      if (inside[frame[k]] >= 0) for (const key of ["O", "I", "W"]) (of[key][term[key]] ??= []).push(term);
    }));
  const kernel = o => Math.floor(o / windows.length);
  tensors.O.labels.forEach((_, O) => (of.b[kernel(O)] ??= []).push({ O }));

  const sum = (list, f) => list.reduce((total, t) => total + f(t), 0);
  const winner = o => of.O[o].reduce((a, t) => v.I[t.I] > v.I[a.I] ? t : a); // the first of equal ones
  const x = t => v.I[t.I];
  const rules = { // value: O of its terms; slope: dO/dI of one term, and how it is written
    sum: { value: (list, o) => sum(list, t => x(t) * v.W[t.W]) + v.b[kernel(o)], slope: t => v.W[t.W],
           symbol: t => symbol("W", t.W),
           O: `every ${model.sign === "∗" ? "cell of its window" : "input"} times the weight that lies on it, and the bias.`,
           I: "every output that used it sends back its δ, times the weight used there." },
    max: { value: (list, o) => list.length ? x(winner(o)) : -Infinity, slope: t => Number(winner(t.O) === t),
           symbol: t => winner(t.O) === t ? "taken" : "not taken", begin: "max",
           chip: t => [symbol("I", t.I), number(x(t))], lost: t => winner(t.O) !== t,
           O: "the largest cell of its window, of equal ones the first.",
           I: "every window that holds it sends back its δ, if this cell was its maximum." },
    avg: { value: list => list.length && sum(list, x) / counts[list[0].n], slope: t => 1 / counts[t.n],
           symbol: t => `1/${counts[t.n]}`, number: t => `1/${counts[t.n]}`,
           O: "the mean of its window.", I: "every window that holds it sends back an equal share of its δ." },
    lp: { value: list => sum(list, t => Math.abs(x(t)) ** p) ** (1 / p),
          slope: t => v.O[t.O] && Math.sign(x(t)) * (Math.abs(x(t)) / v.O[t.O]) ** (p - 1),
          symbol: () => "slope", begin: "(", end: `)<sup>1/${p}</sup>`,
          chip: t => [`|${symbol("I", t.I)}|<sup>${p}</sup>`, `${number(Math.abs(x(t)))}<sup>${p}</sup>`],
          O: "the norm of its window.",
          I: "every window that holds it sends back its δ times the slope sign(I) · (|I| / O)^(p − 1)." },
  };
  const rule = rules[kind];

  function compute() {
    const each = (name, f) => tensors[name]?.labels.map((_, n) => f(of[name][n] ?? [], n));
    v.O = each("O", rule.value);
    v.dI = each("I", list => sum(list, t => v.δ[t.O] * rule.slope(t)));
    v.dW = each("W", list => sum(list, t => v.δ[t.O] * x(t)));
    v.db = each("b", list => sum(list, t => v.δ[t.O]));
  }

  // ---- how a selected cell is explained: the chips of its sum, and what each term marks, with its factor ----

  const number = n => String(n % 1 ? +n.toPrecision(4) : n).replace("Infinity", "∞").replaceAll("-", "−");
  const factor = n => n < 0 ? `(${number(n)})` : number(n);
  const symbol = (name, n) => {
    const { letter, labels } = tensors[base(name)], whole = `<i>${letter}</i><sub>${labels[n]}</sub>`;
    return `<span data-role="${base(name)}">${name === base(name) ? whole : `∂<i>L</i>/∂${whole}`}</span>`;
  };
  const spoken = (name, n) => symbol(name, n).replace("<sub>", " ").replace(/<[^>]*>/g, "");
  const product = (name, n, other, times) => [`${symbol(name, n)} · ${other}`, `${number(v[name][n])} · ${times}`];
  const slope = t => [rule.symbol(t), rule.number?.(t) ?? factor(rule.slope(t))];
  const delta = t => ["δ", t.O];
  const views = {
    O: { why: `An output: ${rule.O}`, chip: rule.chip ?? (t => product("I", t.I, ...slope(t))),
         marks: t => [["I", t.I, rule.chip ? undefined : rule.slope(t)], ["W", t.W]] },
    I: { why: `Gradient of an input cell: ${rule.I}`, chip: t => product(...delta(t), ...slope(t)),
         marks: t => [[...delta(t), rule.slope(t)], ["W", t.W]] },
    W: { why: "Gradient of a weight: every output sends back its δ, times the cell on which the weight lay.",
         chip: t => product(...delta(t), symbol("I", t.I), factor(x(t))),
         marks: t => [[...delta(t), x(t)], ["I", t.I, v.δ[t.O]]] },
    b: { why: "Gradient of a bias: every output of its kernel sends back its δ.",
         chip: t => [symbol(...delta(t)), number(v.δ[t.O])], marks: t => [delta(t)] },
  };

  // ---- the page ----

  const cells = {}, frame = []; // td of every entry; of the input, also of every cell of the frame
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  function figure(name) {
    const { letter, word } = tensors[base(name)], grid = name === "I" ? model.frame : tensors[base(name)];
    const partial = `∂<i>L</i>/∂<i>${name === "δ" ? tensors.O.letter : letter}</i>`;
    const title = name === "δ" ? `<i>δ</i> = ${partial}` : name === base(name) ? `${word} <i>${letter}</i>` : partial;
    const caption = make("figcaption", { innerHTML: title }), panels = make("div", { className: "panels" });
    const made = make("figure", {}, caption, panels);
    made.dataset.role = base(name);
    panels.style.setProperty("--across", grid.across);
    cells[name] = [];
    grid.panels.forEach((heading, panel) => {
      const table = make("table", { role: "grid", ariaLabel: `${caption.textContent} ${heading}` });
      for (let at = panel * grid.rows * grid.columns, row = 0; row < grid.rows; row++)
        for (let line = table.insertRow(), column = 0; column < grid.columns; column++, at++) {
          const td = line.insertCell(), cell = inside[at % inside.length];
          const n = name === "I" ? Math.floor(at / inside.length) * model.cells + cell : at;
          if (name === "I") frame[at] = td;
          if (name === "I" && cell < 0) Object.assign(td, { className: "pad", ariaHidden: "true" });
          else {
            cells[name][n] = Object.assign(td, { role: "gridcell", tabIndex: -1 });
            Object.assign(td.dataset, { tensor: name, n });
          }
        }
      panels.append(make("div", {}, ...(heading ? [make("p", { textContent: heading })] : []), table));
    });
    return made;
  }

  const button = (textContent, ariaLabel, onclick) => make("button", { type: "button", textContent, ariaLabel, onclick });
  const bands = make("div", { className: "bands" },
    make("div", { className: "names" }, make("span", { textContent: "forward" }), make("span", { textContent: "backward" })));
  const columns = sum([model.frame, tensors.W, tensors.b, tensors.O], grid => grid ? grid.columns * grid.across : 0);
  bands.style.fontSize = `${Math.max(0.65, Math.min(1, 17 / columns))}em`; // wide layers in smaller print
  const signs = kind === "sum" ? { W: model.sign, b: "+", O: "=" } : { O: { max: "max", avg: "mean", lp: "norm" }[kind] };
  for (const name of Object.keys(above).filter(name => tensors[name])) {
    const sign = textContent => make("span", { className: "sign", textContent, ariaHidden: "true" });
    if (signs[name]) bands.append(make("div", { className: "signs" }, sign(signs[name]), sign(name === "O" ? "⟵" : "")));
    bands.append(make("div", { className: "pair" }, figure(name), figure(above[name])));
  }
  const label = make("label", { htmlFor: "value" });
  const field = make("input", { id: "value", type: "number", step: "any", autocomplete: "off" });
  const playing = button("Play", "Play, cell after cell", () => play());
  const why = make("p", { className: "why" }), equation = make("div", { className: "sum" });
  section.append(
    make("p", { className: "hint", textContent: "Each tensor stands above its gradient. Point at a cell, or move with Tab "
      + "and the arrow keys, to see the products that make it. Type a number to change it: all results follow." }),
    bands,
    make("div", { className: "lens" },
      make("div", { className: "tools" },
        make("span", {}, button("‹", "Previous cell", () => step(-1)), playing, button("›", "Next cell", () => step(1))),
        make("span", {}, label, button("−", "One less", () => change(current() - 1)), field,
          button("+", "One more", () => change(current() + 1))),
        button("Reset", "Reset all numbers", () => reset())),
      make("div", { role: "status" }, why, equation)));

  // ---- what is selected, what is changed ----

  let selected = ["O", 0], marked = [], timer;
  const mark = (td, mode, by) => {
    if (!td) return;
    td.classList.add(mode);
    if (by !== undefined) td.dataset.by = `×${number(by)}`;
    marked.push(td);
  };

  function show() {
    for (const td of marked) {
      td.classList.remove("on", "mate", "with", "window", "goes", "lost");
      delete td.dataset.by;
    }
    marked = [];
    const [name, n] = selected, key = name === "δ" ? "O" : base(name), list = of[key][n] ?? [], view = views[key];
    const result = key === "O" ? "O" : above[key], lost = t => rule.lost && rule.lost(t) ? "lost" : "with";
    mark(cells[key][n], name === key ? "on" : "mate");
    mark(cells[above[key]][n], name === key ? "mate" : "on");
    for (const t of list) {
      for (const [tensor, at, by] of view.marks(t)) mark(cells[tensor]?.[at], lost(t), by);
      if (key !== "O") mark(cells.O[t.O], "goes");
    }
    const chips = list.slice(0, 48).map(t => [...view.chip(t), lost(t)]);
    if (list.length > 48) chips.push([`${list.length - 48} more`, "…"]);
    if (key === "O") {
      for (const [b, channel] of links)
        if (b === kernel(n)) for (const at of windows[n % windows.length]) mark(frame[channel * inside.length + at], "window");
      if (tensors.b) {
        mark(cells.b[kernel(n)], "with");
        chips.push([symbol("b", kernel(n)), number(v.b[kernel(n)])]);
      }
    }
    const write = ([top, bottom, mode = ""]) => `<span class="chip ${mode}"><span>${top}</span><span>${bottom}</span></span>`;
    const sign = text => text ? `<b>${text}</b>` : "", { begin, end } = key === "O" ? rule : {};
    why.textContent = view.why;
    equation.innerHTML = write([symbol(result, n), number(v[result][n]), "result"]) + sign("=") + sign(begin)
      + (chips.map(write).join(sign(begin === "max" ? "," : "+")) || sign("0")) + sign(end);
    label.innerHTML = symbol(...target());
    field.ariaLabel = `Value of ${spoken(...target())}`;
    if (document.activeElement !== field) field.value = current();
    for (const table of section.querySelectorAll("table")) { // one cell of each matrix is in the order of Tab
      const home = table.querySelector(".on") ?? table.querySelector("[tabindex='0']") ?? table.querySelector("[tabindex]");
      table.querySelectorAll("[tabindex='0']").forEach(td => { td.tabIndex = -1; });
      if (home) home.tabIndex = 0;
    }
  }

  function refresh() {
    compute();
    for (const name in cells)
      cells[name].forEach((td, n) => {
        const text = number(v[name][n]);
        if (td.dataset.value === String(v[name][n])) return;
        if (td.textContent) td.animate({ boxShadow: ["0 0 0 3px var(--role)", "0 0 0 3px transparent"] }, 900);
        td.textContent = text;
        td.dataset.value = v[name][n];
        td.ariaLabel = `${spoken(name, n)}: ${text}`;
      });
    show();
  }

  // The field changes what is selected or, of a result, the tensor that stands above it or below it.
  const target = () => [selected[0] === "O" ? "δ" : base(selected[0]), selected[1]];
  const current = () => v[target()[0]][target()[1]];
  const change = to => {
    if (!Number.isFinite(to)) return;
    v[target()[0]][target()[1]] = to;
    refresh();
  };
  const reset = () => {
    for (const name in tensors) if (tensors[name].values) v[name] = [...tensors[name].values];
    refresh();
  };
  const select = (name, n) => {
    selected = [name, n];
    show();
  };
  const step = by => select(selected[0], (selected[1] + by + cells[selected[0]].length) % cells[selected[0]].length);
  const play = () => {
    timer = timer ? clearInterval(timer) : setInterval(step, 900, 1);
    playing.textContent = timer ? "Pause" : "Play";
  };

  const cell = event => event.target.closest("td[data-tensor]");
  const follow = event => cell(event) && select(cell(event).dataset.tensor, +cell(event).dataset.n);
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  bands.addEventListener("focusin", follow);
  bands.addEventListener("pointerover", event => { if (!timer && document.activeElement !== field) follow(event); });
  bands.addEventListener("keydown", event => {
    const td = cell(event);
    if (!td || event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) {
      const [down, right] = moves[event.key], { rows } = td.closest("table");
      rows[td.parentNode.rowIndex + down]?.cells[td.cellIndex + right]?.focus();
    } else if (event.key === "Home" || event.key === "End")
      cells[td.dataset.tensor].at(event.key === "Home" ? 0 : -1).focus();
    else if (/^[-0-9.]$/.test(event.key) || event.key === "Enter") {
      field.focus();
      field.select(); // what is typed, this key included, takes the place of the old value
      if (event.key !== "Enter") return;
    } else return;
    event.preventDefault();
  });
  field.addEventListener("input", () => field.value !== "" && change(+field.value));
  field.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === "Escape") cells[selected[0]][selected[1]].focus();
  });

  reset();
}

document.querySelectorAll(".live").forEach(live);
