"use strict";
/* The page without this script has every table and figure; with it, they can be sorted, filtered,
   copied and saved, and the slices of test cases can be seen. It asks nothing of the network. */
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  document.documentElement.classList.add("js");
  const files = read("files");
  const colors = read("colors");

  // Copy and save.

  const note = byId("note");
  function tell(text) {
    note.textContent = text;
    note.classList.add("shown");
    setTimeout(() => note.classList.remove("shown"), 2000);
  }

  function copyBySelection(text) {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  async function copy(name) {
    try {
      await navigator.clipboard.writeText(files[name]);
    } catch {
      copyBySelection(files[name]);
    }
    tell(`${name} copied`);
  }

  function save(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    tell(`${name} saved`);
  }

  const saveText = (name, text, kind) => save(name, new Blob([text], { type: kind }));

  function svgOf(name) {
    const svg = byId(`figure-${name}`).querySelector("svg").cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    svg.setAttribute("width", `${width}pt`);
    svg.setAttribute("height", `${height}pt`);
    const text = new XMLSerializer().serializeToString(svg);
    const plain = text.replace(/var\((--\w+)\)/g, (whole, variable) => colors[variable]);
    return { text: plain, inches: [width / 72, height / 72] };
  }

  function savePng(name) {
    const { text, inches } = svgOf(name);
    const picture = new Image();
    picture.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = inches.map((length) => Math.round(300 * length));
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(`${name}.png`, blob));
    };
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { copy: copied, save: saved, figure, kind } = button.dataset;
    if (copied) copy(copied);
    if (saved) saveText(saved, files[saved], "text/plain;charset=utf-8");
    if (kind === "png") savePng(figure);
    if (kind === "svg") saveText(`${figure}.svg`, svgOf(figure).text, "image/svg+xml");
  });

  // Sort and filter the tables of the comparison.

  const value = ({ cells }, at) => cells[at].dataset.value ?? cells[at].textContent;

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const text = table.tHead.rows[0].cells[column].dataset.text !== undefined;
    const sign = direction === "ascending" ? 1 : -1;
    const order = (one, other) => {
      if (direction === "none") return one.dataset.place - other.dataset.place;
      const [a, b] = [value(one, column), value(other, column)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (text ? a.localeCompare(b) : a - b);
    };
    body.append(...all("tr", body).sort(order));
    table.classList.toggle("sorted", direction !== "none");
  }

  for (const table of all("table.comparison")) {
    const heads = all("th", table.tHead);
    for (const [column, head] of heads.entries()) {
      head.querySelector("button").addEventListener("click", () => {
        const order = ["none", "descending", "ascending"];
        if (head.dataset.text !== undefined) order.splice(1, 2, "ascending", "descending");
        const now = order.indexOf(head.getAttribute("aria-sort"));
        const next = order[(now + 1) % order.length];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        sort(table, column, next);
      });
    }
  }

  const filter = byId("filter");
  filter?.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("table.comparison tbody tr");
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    byId("count").textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });

  // Load the page again while runs are at work.

  const refresh = byId("refresh");
  if (refresh) {
    setInterval(() => refresh.checked && location.reload(), 1000 * refresh.dataset.seconds);
  }

  // The slices.

  const viewer = byId("viewer");
  if (!viewer) return;
  const { colors: keys, pairs, cases } = read("slices");
  const [choice, chosen, slider, output] = ["pair", "case", "slice", "where"].map((n) => byId(n));
  const shows = (name) => byId(`show-${name}`).checked;
  const sides = ["without", "with"];
  const panels = sides.map((side) => byId(`panel-${side}`));
  let open = null;

  function option(text, index) {
    const made = document.createElement("option");
    made.textContent = text;
    made.value = index;
    return made;
  }

  function load(type, text) {
    return new Promise((done, failed) => {
      const picture = new Image();
      picture.onload = () => done(picture);
      picture.onerror = failed;
      picture.src = `data:image/${type};base64,${text}`;
    });
  }

  async function classes(text, levels) {
    const picture = await load("png", text);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const raw = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const step = Math.floor(255 / levels);
    return Uint8Array.from({ length: raw.length / 4 }, (_, i) => Math.round(raw[4 * i] / step));
  }

  function middle(mask, [width, height, count]) {
    let [best, most] = [Math.floor(count / 2), 0];
    for (let k = 0; k < count; k++) {
      const own = mask.subarray(k * width * height, (k + 1) * width * height);
      const size = own.reduce((sum, level) => sum + (level > 0), 0);
      if (size > most) [best, most] = [k, size];
    }
    return best;
  }

  async function show() {
    const [pair, found] = [pairs[choice.value], cases[chosen.value]];
    if (!pair || !found) return;
    const truth = await classes(found.truth, found.levels);
    const scan = await load("webp", found.scan);
    const masks = [];
    for (const run of pair.runs) {
      const own = found.masks[run];
      masks.push(own ? { dice: own.dice, mask: await classes(own.png, found.levels) } : null);
    }
    if (pairs[choice.value] !== pair || cases[chosen.value] !== found) return; // chosen meanwhile
    const same = open?.found === found;
    open = { found, truth, scan, masks };
    slider.max = found.size[2] - 1;
    if (!same) slider.value = middle(truth, found.size);
    draw();
  }

  function outline(context, at, [width, height], scale, color, thickness) {
    context.beginPath();
    const line = (x, y, toX, toY) => {
      context.moveTo(x * scale[0], y * scale[1]);
      context.lineTo(toX * scale[0], toY * scale[1]);
    };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const own = at(x, y);
        if (!own) continue;
        if (at(x - 1, y) !== own) line(x, y, x, y + 1);
        if (at(x + 1, y) !== own) line(x + 1, y, x + 1, y + 1);
        if (at(x, y - 1) !== own) line(x, y, x + 1, y);
        if (at(x, y + 1) !== own) line(x, y + 1, x + 1, y + 1);
      }
    }
    context.lineCap = "round";
    for (const [style, wide] of [["rgba(0, 0, 0, 0.6)", thickness + 2], [color, thickness]]) {
      context.strokeStyle = style;
      context.lineWidth = wide;
      context.stroke();
    }
  }

  function errors(context, at, truth, [width, height], scale) {
    const kinds = { missed: new Path2D(), excess: new Path2D() };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [own, right] = [at(x, y), truth(x, y)];
        if (own === right) continue;
        const place = [x * scale[0], y * scale[1], scale[0] + 0.5, scale[1] + 0.5];
        kinds[right ? "missed" : "excess"].rect(...place);
      }
    }
    context.globalAlpha = 0.75;
    for (const [kind, path] of Object.entries(kinds)) {
      context.fillStyle = keys[kind];
      context.fill(path);
    }
    context.globalAlpha = 1;
  }

  function write(context, text, x, y, align, base, size) {
    context.font = `600 ${size}px system-ui, sans-serif`;
    [context.textAlign, context.textBaseline] = [align, base];
    context.lineJoin = "round";
    context.lineWidth = size / 4;
    context.strokeStyle = "rgba(0, 0, 0, 0.8)";
    context.strokeText(text, x, y);
    context.fillStyle = "#fff";
    context.fillText(text, x, y);
  }

  function paint(panel, side, own, title) {
    const { found, truth, scan } = open;
    const [width, height] = found.size;
    const slice = Number(slider.value);
    const canvas = panel.querySelector("canvas");
    const ratio = window.devicePixelRatio || 1;
    const across = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.width = across;
    canvas.height = Math.round((across * height * found.aspect) / width);
    const scale = [canvas.width / width, canvas.height / height];
    const context = canvas.getContext("2d");
    const from = slice * height;
    context.drawImage(scan, 0, from, width, height, 0, 0, canvas.width, canvas.height);
    const reader = (mask) => (x, y) =>
      x < 0 || y < 0 || x >= width || y >= height ? 0 : mask[(from + y) * width + x];
    const right = reader(truth);
    if (own && shows("errors")) errors(context, reader(own.mask), right, found.size, scale);
    if (shows("truth")) outline(context, right, found.size, scale, keys.truth, 3.6 * ratio);
    if (own) outline(context, reader(own.mask), found.size, scale, keys[side], 2 * ratio);
    const [edge, size] = [6 * ratio, 14 * ratio];
    const place = `slice ${found.numbers[slice]} of ${found.of}`;
    const dice = own ? `Dice ${own.dice.toFixed(1)} %` : "";
    write(context, dice, edge, edge, "left", "top", size);
    write(context, place, edge, canvas.height - edge, "left", "bottom", size * 0.85);
    if (found.letters) {
      const [x, y] = [canvas.width / 2, canvas.height / 2];
      write(context, "R", edge, y, "left", "middle", size);
      write(context, "L", canvas.width - edge, y, "right", "middle", size);
      write(context, "A", x, edge, "center", "top", size);
      write(context, "P", x, canvas.height - edge, "center", "bottom", size);
    }
    canvas.setAttribute("aria-label", `${found.name}, ${title}, ${place}. ${dice}`);
    panel.querySelector("figcaption").textContent = title;
  }

  function draw() {
    if (!open) return;
    const titles = ["without SemiSAM", "with SemiSAM"];
    const active = sides.map((side, i) => Boolean(open.masks[i]) && shows(side));
    const alone = !active.includes(true);
    for (const [i, panel] of panels.entries()) panel.hidden = !(active[i] || (alone && i === 0));
    for (const [i, panel] of panels.entries()) {
      const [own, title] = active[i] ? [open.masks[i], titles[i]] : [null, "scan"];
      if (!panel.hidden) paint(panel, sides[i], own, title);
    }
    const { found } = open;
    const where = `${found.numbers[slider.value]} of ${found.of}`;
    output.textContent = where;
    slider.setAttribute("aria-valuetext", `slice ${where}`);
  }

  function listCases() {
    const runs = pairs[choice.value].runs.filter(Boolean);
    const before = chosen.value;
    const listed = [...cases.entries()].filter(([, found]) => runs.some((run) => found.masks[run]));
    chosen.replaceChildren(
      ...listed.map(([index, found]) => {
        const dice = runs.map((run) => found.masks[run]?.dice.toFixed(1) ?? "–");
        return option(`${found.name} (Dice ${dice.join(" → ")} %)`, index);
      }),
    );
    if (listed.some(([index]) => String(index) === before)) chosen.value = before;
    show();
  }

  for (const [index, pair] of pairs.entries()) {
    let place = pair.group ? choice.lastElementChild : choice;
    if (pair.group && place?.label !== pair.group) {
      place = document.createElement("optgroup");
      place.label = pair.group;
      choice.append(place);
    }
    place.append(option(pair.title, index));
  }
  for (const name of ["truth", ...sides, "errors"]) byId(`show-${name}`).addEventListener("change", draw);
  for (const name of Object.keys(keys)) {
    for (const key of all(`.key-${name}`)) key.style.background = keys[name];
  }
  choice.addEventListener("change", listCases);
  chosen.addEventListener("change", show);
  slider.addEventListener("input", draw);
  new ResizeObserver(draw).observe(byId("panels"));
  viewer.hidden = false;
  listCases();
})();
