"use strict";

const PER_PAGE = 24;
const CROWD = -1; // see browse.py
const data = JSON.parse(document.getElementById("data").textContent);

function decode(text, Type) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Type(bytes.buffer);
}

function decodeBoxes(part) {
  return {
    start: decode(part.start, Int32Array), boxes: decode(part.boxes, Float32Array),
    labels: decode(part.labels, Int32Array), scores: decode(part.scores, Float32Array),
    kinds: part.kinds ? decode(part.kinds, Int32Array) : null,
  };
}

const sizes = decode(data.sizes, Int32Array);
const split = decode(data.split, Int32Array);
const objects = decodeBoxes(data.objects);
const detections = data.detections ? decodeBoxes(data.detections) : null;
const lowerNames = data.names.map((name) => name.toLowerCase());
const shownImages = data.images ? Object.keys(data.images).map(Number) : data.names.map((_, index) => index);
const notErrors = new Set(["correct", "ignored"].map((kind) => data.kinds.indexOf(kind)));

const form = document.getElementById("filters");
const cards = document.getElementById("cards");
const viewer = document.getElementById("viewer");
let selected = []; // indices of the images that pass the filters, in order
let page = 0;
let opened = 0; // position in `selected` of the enlarged image

// ---- filters

function readFilters() {
  const value = (name, otherwise) => (form.elements[name] ? form.elements[name].value : otherwise);
  return {
    text: value("text", "").trim().toLowerCase(),
    label: Number(value("label", -1)), split: Number(value("split", -1)),
    least: Number(value("least", 0)), most: value("most", "") === "" ? Infinity : Number(value("most", "")),
    // Rounded as the scores are, so that a score of 0.7 is at least 0.7.
    kind: value("kind", ""), score: Math.fround(value("score", 0)), sort: value("sort", "index"),
  };
}

const isMissed = (row, filters) => detections !== null && objects.scores[row] !== CROWD &&
  (objects.scores[row] === 0 || objects.scores[row] < filters.score);
const isShown = (row, filters) => detections.scores[row] >= filters.score;
const isError = (row) => !notErrors.has(detections.kinds[row]);
const rowsOf = (boxes, index) => [boxes.start[index], boxes.start[index + 1]];
const countObjects = (index) => objects.start[index + 1] - objects.start[index];

function someBox(boxes, index, test) {
  for (let [row, end] = rowsOf(boxes, index); row < end; row++) if (test(row)) return true;
  return false;
}

function hasKind(index, filters) {
  const ofClass = (boxes) => (row) => filters.label < 0 || boxes.labels[row] === filters.label;
  const ofObject = ofClass(objects), ofDetection = detections && ofClass(detections);
  const kind = data.kinds.indexOf(filters.kind);
  const object = (row) => ofObject(row) && (filters.kind === "" || (kind < 0 && isMissed(row, filters)));
  const detection = (row) => ofDetection(row) && isShown(row, filters) &&
    (filters.kind === "" || (filters.kind === "error" ? isError(row) : detections.kinds[row] === kind));
  return someBox(objects, index, object) || (detections !== null && someBox(detections, index, detection));
}

function passes(index, filters) {
  if (filters.split >= 0 && split[index] !== filters.split) return false;
  if (filters.text && !lowerNames[index].includes(filters.text)) return false;
  const count = countObjects(index);
  if (count < filters.least || count > filters.most) return false;
  return (filters.label < 0 && filters.kind === "") || hasKind(index, filters);
}

function errorsOf(index, filters) {
  let count = 0, highest = 0;
  for (let [row, end] = rowsOf(objects, index); row < end; row++) count += isMissed(row, filters);
  for (let [row, end] = rowsOf(detections, index); row < end; row++) {
    if (!isShown(row, filters) || !isError(row)) continue;
    count++;
    highest = Math.max(highest, detections.scores[row]);
  }
  return { count, highest };
}

function sortKeys(indices, filters) { // ascending
  switch (filters.sort) {
    case "name": return null;
    case "most": return indices.map((index) => -countObjects(index));
    case "fewest": return indices.map(countObjects);
    case "errors": return indices.map((index) => -errorsOf(index, filters).count);
    case "confident": return indices.map((index) => -errorsOf(index, filters).highest);
    default: return indices;
  }
}

function select() {
  const filters = readFilters();
  const found = shownImages.filter((index) => passes(index, filters));
  const keys = sortKeys(found, filters);
  const order = found.map((_, position) => position);
  const names = new Intl.Collator(undefined, { numeric: true });
  order.sort(keys ? (a, b) => keys[a] - keys[b] || a - b : (a, b) => names.compare(data.names[found[a]], data.names[found[b]]));
  selected = order.map((position) => found[position]);
}

// ---- drawing

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function svgElement(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function objectsOf(index, filters) {
  const found = [];
  for (let [row, end] = rowsOf(objects, index); row < end; row++) {
    const kind = objects.scores[row] === CROWD ? "crowd" : isMissed(row, filters) ? "missed" : "object";
    found.push({ kind, name: data.classes[objects.labels[row]], score: "", box: objects.boxes.subarray(4 * row, 4 * row + 4) });
  }
  return found;
}

function detectionsOf(index, filters) {
  const found = [];
  for (let [row, end] = rowsOf(detections, index); row < end; row++) {
    if (!isShown(row, filters)) continue;
    const name = data.classes[detections.labels[row]], score = detections.scores[row].toFixed(2);
    found.push({ kind: data.kinds[detections.kinds[row]], name, score, box: detections.boxes.subarray(4 * row, 4 * row + 4) });
  }
  return found.reverse(); // the highest score is drawn on top
}

function makePane(index, boxes, title, isLarge) {
  const height = sizes[2 * index], width = sizes[2 * index + 1];
  const url = data.images ? data.images[index] : `${isLarge ? "image" : "thumbnail"}/${index}`;
  const image = element("img", { src: url, loading: isLarge ? "eager" : "lazy", decoding: "async", alt: `${title}: ${data.names[index]}` });
  const drawing = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const letter = Math.max(width, height) / (window.innerWidth < 700 ? 28 : 45);
  for (const { kind, name, score, box: [x1, y1, x2, y2] } of boxes) {
    const rect = svgElement("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
    rect.append(svgElement("title", {}, `${name} ${score} ${kind}`));
    drawing.append(rect);
    if (isLarge) {
      const place = { x: x1 + letter / 5, y: Math.max(y1 - letter / 4, letter), "font-size": letter, "stroke-width": letter / 5 };
      drawing.append(svgElement("text", place, `${name} ${score}`));
    }
  }
  const pane = element("div", { className: "pane" }, image, drawing);
  if (detections) pane.append(element("span", { className: "pane-title", textContent: title }));
  if (isLarge) pane.style.aspectRatio = `${width} / ${height}`;
  return pane;
}

function panesOf(index, filters, isLarge) {
  const panes = [makePane(index, objectsOf(index, filters), "ground truth", isLarge)];
  if (detections) panes.push(makePane(index, detectionsOf(index, filters), "detections", isLarge));
  return panes;
}

function describe(index, filters) {
  const parts = [`${sizes[2 * index + 1]} × ${sizes[2 * index]}`];
  if (data.splits.length) parts.push(data.splits[split[index]]);
  const count = countObjects(index);
  parts.push(`${count} object${count === 1 ? "" : "s"}`);
  if (detections) {
    const found = detectionsOf(index, filters).length, errors = errorsOf(index, filters).count;
    parts.push(`${found} detection${found === 1 ? "" : "s"}`, `${errors} error${errors === 1 ? "" : "s"}`);
  }
  return parts.join(", ");
}

function makeCard(position) {
  const index = selected[position], filters = readFilters();
  const button = element("button", { type: "button" }, element("div", { className: "panes" }, ...panesOf(index, filters, false)),
    element("p", { className: "name", textContent: data.names[index] }));
  button.addEventListener("click", () => open(position));
  return element("div", { className: "card" }, button, element("p", { className: "count", textContent: describe(index, filters) }));
}

function showPage() {
  const pages = Math.max(1, Math.ceil(selected.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const positions = selected.map((_, position) => position).slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  cards.replaceChildren(...positions.map(makeCard));
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page === pages - 1;
  document.getElementById("position").textContent =
    `${selected.length} of ${shownImages.length} images, page ${page + 1} of ${pages}`;
}

// ---- the enlarged image

function open(position) {
  const filters = readFilters();
  opened = Math.min(Math.max(position, 0), selected.length - 1);
  const index = selected[opened];
  document.getElementById("viewer-name").textContent = `${data.names[index]}: ${describe(index, filters)}`;
  document.getElementById("viewer-panes").replaceChildren(...panesOf(index, filters, true));
  const boxes = [...objectsOf(index, filters), ...(detections ? detectionsOf(index, filters).reverse() : [])];
  document.getElementById("viewer-boxes").replaceChildren(...boxes.map(({ kind, name, score, box: [x1, y1, x2, y2] }) =>
    element("tr", {}, ...[kind, name, ...(detections ? [score] : []), [x1, y1, x2 - x1, y2 - y1].map((side) => side.toFixed(1)).join(", ")]
      .map((text) => element("td", { textContent: text })))));
  document.getElementById("viewer-previous").disabled = opened === 0;
  document.getElementById("viewer-next").disabled = opened === selected.length - 1;
  if (!viewer.open) viewer.showModal();
}

viewer.addEventListener("close", () => {
  page = Math.floor(opened / PER_PAGE);
  showPage();
  cards.children[opened % PER_PAGE]?.querySelector("button").focus();
});

// ---- input

function update() {
  select();
  page = 0;
  const shown = document.getElementById("score-shown");
  if (shown) shown.textContent = Number(form.elements.score.value).toFixed(2);
  showPage();
  const kept = new URLSearchParams(new FormData(form));
  history.replaceState(null, "", `#${kept}`);
}

function turn(by) {
  page += by;
  showPage();
}

const onClick = (id, action) => document.getElementById(id).addEventListener("click", action);
onClick("previous", () => turn(-1));
onClick("next", () => turn(1));
onClick("viewer-previous", () => open(opened - 1));
onClick("viewer-next", () => open(opened + 1));
onClick("viewer-close", () => viewer.close());
let pending = 0;
form.addEventListener("input", () => { // a moving slider sends many events per frame
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(update);
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(update)); // after the fields have changed

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select")) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && viewer.open) open(opened + by);
  else if (by) turn(by);
  else if (event.key === "/" && !viewer.open) {
    event.preventDefault();
    form.elements.text.focus();
  }
});

// ---- start

function fill(name, values) {
  if (form.elements[name]) form.elements[name].append(...values.map(([value, text]) => new Option(text, value)));
}

fill("label", data.classes.map((name, label) => [label, name]));
fill("split", data.splits.map((name, number) => [number, name]));
fill("kind", data.kinds.map((kind) => [kind, kind]));
const legend = detections ? ["object", "missed", "crowd", ...data.kinds] : ["object", "crowd"];
document.getElementById("legend").append(...legend.map((kind) => {
  const key = svgElement("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  key.append(svgElement("rect", { class: kind, x: 1, y: 1, width: 14, height: 14 }));
  return element("span", {}, key, kind);
}));
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  const field = form.elements.namedItem(name);
  if (field) field.value = value;
}
for (const field of form.querySelectorAll("select")) if (field.selectedIndex < 0) field.selectedIndex = 0; // no such option
update();
