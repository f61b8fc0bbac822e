// The script of the offline page (export_html.c embeds it, hashed in the page's content security policy): what the
// picture shows under the pointer or the arrow keys, and the table of edges, filtered, sorted and paged. All texts go
// in as textContent. Data: the JSON in #graph. Tests: tests/golden/test_graph.py
"use strict";
(() => {
  const graph = JSON.parse(document.getElementById("graph").textContent);
  const {rows, cols, indptr, indices, weights, tokens, causal, area} = graph;
  const byId = (id) => document.getElementById(id);
  const show = (position) => position + " " + JSON.stringify(tokens[position]);

  // --- what a cell of the picture holds ---
  const svg = document.querySelector("figure svg"), figure = document.querySelector("figure"), says = byId("says");
  const cell = {row: 0, col: 0};
  const weightAt = (row, key) => {
    let low = indptr[row], high = indptr[row + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (indices[middle] < key) low = middle + 1; else high = middle;
    }
    return low < indptr[row + 1] && indices[low] === key ? weights[low] : null;
  };
  const describe = () => {
    const query = rows[0] + cell.row * area.step, key = cols[0] + cell.col * area.step;
    if (area.step > 1) {
      let edges = 0;
      for (let r = cell.row * area.step; r < Math.min((cell.row + 1) * area.step, rows[1] - rows[0]); r++)
        for (let e = indptr[r]; e < indptr[r + 1]; e++)
          if (indices[e] >= key && indices[e] < key + area.step) edges++;
      return edges + " edges: queries from " + show(query) + ", keys from " + show(key);
    }
    const weight = weightAt(query - rows[0], key), pair = "query " + show(query) + " \u2192 key " + show(key);
    if (weight !== null) return pair + ": weight " + weight;
    return pair + (causal && key > query ? ": masked" : ": no edge");
  };
  const move = (row, col) => {
    cell.row = Math.max(0, Math.min(Math.ceil((rows[1] - rows[0]) / area.step) - 1, row));
    cell.col = Math.max(0, Math.min(Math.ceil((cols[1] - cols[0]) / area.step) - 1, col));
    says.textContent = describe();
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale - area.x, y = (event.clientY - box.top) * scale - area.y;
    if (x >= 0 && y >= 0 && x < area.width && y < area.height)
      move(Math.floor(y / area.cell), Math.floor(x / area.cell));
  });
  figure.addEventListener("keydown", (event) => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!step) return;
    event.preventDefault();
    move(cell.row + step[0], cell.col + step[1]);
  });

  // --- the table ---
  const PAGE = 200, queryOf = new Uint32Array(indices.length);
  for (let r = 0; r + 1 < indptr.length; r++) queryOf.fill(rows[0] + r, indptr[r], indptr[r + 1]);
  let sort = {by: "weight", falling: true}, page = 0, order = [];
  const values = {query: (e) => queryOf[e], key: (e) => indices[e], weight: (e) => weights[e]};
  const choose = () => {
    const word = byId("word").value.toLowerCase(), least = parseFloat(byId("least").value) || 0;
    const fits = tokens.map((token) => token.toLowerCase().includes(word)), value = values[sort.by];
    order = [];
    for (let e = 0; e < indices.length; e++)
      if (weights[e] >= least && (fits[queryOf[e]] || fits[indices[e]])) order.push(e);
    order.sort((a, b) => (sort.falling ? value(b) - value(a) : value(a) - value(b)) || a - b);
    page = 0;
    draw();
  };
  const most = weights.reduce((a, b) => Math.max(a, b), 0);
  const draw = () => {
    const body = document.querySelector("tbody"), pages = Math.max(1, Math.ceil(order.length / PAGE));
    page = Math.max(0, Math.min(pages - 1, page));
    body.replaceChildren();
    for (const e of order.slice(page * PAGE, (page + 1) * PAGE)) {
      const row = body.insertRow(), meter = document.createElement("meter");
      for (const text of [queryOf[e], tokens[queryOf[e]], indices[e], tokens[indices[e]], weights[e]])
        row.insertCell().textContent = text;
      meter.max = most || 1;
      meter.value = weights[e];
      row.insertCell().append(meter);
    }
    byId("count").textContent = order.length + " of " + indices.length + " edges, page " + (page + 1) + " of " + pages;
  };
  for (const button of document.querySelectorAll("th button"))
    button.addEventListener("click", () => {
      sort = {by: button.value, falling: sort.by === button.value ? !sort.falling : button.value === "weight"};
      choose();
    });
  byId("word").addEventListener("input", choose);
  byId("least").addEventListener("input", choose);
  byId("before").addEventListener("click", () => { page--; draw(); });
  byId("after").addEventListener("click", () => { page++; draw(); });
  byId("controls").hidden = false;
  choose();
  says.textContent = "Point at a cell, or focus the picture and use the arrow keys.";
})();
