// Input, and the start.

// ---- view ----

function setView(from, to) {
  const [low, high] = fullRange();
  const least = axis.byStep ? 3 : 2e3;
  const span = Math.min(high - low, Math.max(least, to - from));
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(low, middle - span / 2), high - span);
  view.to = view.from + span;
  redraw();
}

function zoom(factor, px = width / 2) {
  const place = placeAt(px);
  setView(place - (place - view.from) * factor, place + (view.to - place) * factor);
}

function pan(px) {
  const distance = (px / width) * (view.to - view.from);
  setView(view.from + distance, view.to + distance);
}

const fit = () => setView(...fullRange());

function reveal(from, to = from) {
  const span = view.to - view.from;
  const margin = span * 0.08;
  if (from >= view.from + margin && to <= view.to - margin) return;
  const middle = to - from < span * 0.8 ? (from + to) / 2 : from + span * 0.4;
  setView(middle - span / 2, middle + span / 2);
}

function setAxis(byStep) {
  const [from, to] = [timeOfPlace(view.from), timeOfPlace(view.to)];
  const isEverything = view.to - view.from >= (fullRange()[1] - fullRange()[0]) * 0.999;
  axis.byStep = byStep;
  $("by-step").setAttribute("aria-pressed", String(byStep));
  $("by-time").setAttribute("aria-pressed", String(!byStep));
  $("axis-name").textContent = byStep ? "time, step by step" : "time";
  relayout();
  if (isEverything) fit();
  else setView(placeOfTime(from), Math.max(placeOfTime(to), placeOfTime(from)));
  if (selection.type === "step") reveal(placeOfStep(selection.index));
}

function relayout() {
  arrange();
  showLabels();
  redraw();
}

function fold(actor) {
  if (!collapsed.delete(actor)) collapsed.add(actor);
  relayout();
}

// ---- selection ----

function select(type, index, mayMove) {
  selection.type = type;
  selection.index = index;
  if (type) tabs.current = "selection";
  if (mayMove && type === "step") reveal(placeOfStep(index));
  if (mayMove && type === "message") reveal(starts[index], ends[index]);
  if (mayMove && type === "fault") reveal(placeOfTime(faults[index].from));
  const hash = type === "step" || type === "message" ? `#${type}=${index}` : "";
  try {
    history.replaceState(null, "", hash || location.pathname);
  } catch {
    // Some browsers forbid it for files; the address is a convenience.
  }
  showPanel();
  $("content").scrollTop = 0;
  // For those who do not see the drawing; the panel holds more than one wants to hear at each step.
  $("said").textContent = type ? tipLines(selection).slice(0, 3).filter(Boolean).join(", ") : "";
  redraw();
}

const isMatch = (index) => !searched.steps || searched.steps[index];

function move(direction) {
  let index;
  if (selection.type === "step") index = selection.index + direction;
  else if (selection.type === "message") index = messages[selection.index][direction > 0 ? "ended_by" : "sent_by"];
  index ??= firstIndex(steps.length, (i) => placeOfStep(i) >= view.from);
  while (index >= 0 && index < steps.length && !isMatch(index)) index += direction;
  if (index >= 0 && index < steps.length) select("step", index, true);
}

function selectEdge(last) {
  const from = last ? steps.length - 1 : 0;
  for (let index = from; index >= 0 && index < steps.length; index += last ? -1 : 1) {
    if (isMatch(index)) {
      select("step", index, true);
      return;
    }
  }
}

function goToViolation() {
  if (!violations.length || !steps.length) return;
  const at = violations[0].at;
  const step = Math.max(0, firstIndex(steps.length, (index) => steps[index].at > at) - 1);
  setAxis(true);
  const span = Math.max(8, width / STEP_WIDTH);
  setView(step + span * 0.15 - span, step + span * 0.15);
  select("step", step, false);
}

// ---- search and legend ----

function showMatches() {
  $("matches").textContent = searched.text ? `${searched.count.toLocaleString("en")} of ${steps.length.toLocaleString("en")} steps` : "";
}

function showOutcomes() {
  $("outcomes").replaceChildren(
    ...Object.entries(OUTCOMES).map(([outcome, text]) =>
      element("button", {
        type: "button", "aria-pressed": String(!hiddenOutcomes.has(outcome)), title: `Show or hide messages that were ${text}`,
        onclick: () => {
          if (!hiddenOutcomes.delete(outcome)) hiddenOutcomes.add(outcome);
          showOutcomes();
          relayout();
        },
      }, element("span", { class: `swatch ${outcome}` }), text),
    ),
  );
}

let searchTimer = 0;
$("search").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(applySearch, 120);
});

function applySearch() {
  clearTimeout(searchTimer);
  search($("search").value);
  showMatches();
  if (tabs.current !== "selection") showPanel();
  redraw();
}

$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    applySearch();
    const before = `${selection.type} ${selection.index}`;
    if (searched.count) move(event.shiftKey ? -1 : 1);
    // Beyond the last match comes the first.
    if (searched.count && before === `${selection.type} ${selection.index}`) selectEdge(event.shiftKey);
  } else if (event.key === "Escape") {
    $("search").value = "";
    applySearch();
    lanesCanvas.focus();
  }
  event.stopPropagation();
});

// ---- keys ----

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), Home: () => selectEdge(false), End: () => selectEdge(true),
    "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), 0: fit, m: () => setAxis(!axis.byStep),
    v: goToViolation, "/": () => $("search").focus(), Escape: () => select(null, -1, false),
    "[": () => pan(-width / 3), "]": () => pan(width / 3),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- pointer ----

let drag = null;

lanesCanvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 18 : 1;
  const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.shiftKey ? event.deltaY : 0;
  if (sideways) pan(sideways * unit);
  else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * unit)) * 0.0022), event.offsetX);
}, { passive: false });

lanesCanvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  drag = { x: event.clientX, y: event.clientY, from: view.from, to: view.to, scroll: $("scroll").scrollTop, hasMoved: false };
  lanesCanvas.setPointerCapture(event.pointerId);
});

lanesCanvas.addEventListener("pointermove", (event) => {
  if (!drag) {
    point(event);
    return;
  }
  const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.hasMoved && Math.hypot(dx, dy) < 4) return;
  drag.hasMoved = true;
  showTip(null);
  lanesCanvas.classList.add("grabbing");
  const distance = (dx / width) * (drag.to - drag.from);
  setView(drag.from - distance, drag.to - distance);
  $("scroll").scrollTop = drag.scroll - dy;
});

lanesCanvas.addEventListener("pointerup", (event) => {
  if (drag && !drag.hasMoved) {
    const found = hit(event.offsetX, event.offsetY);
    select(found ? found.type : null, found ? found.index : -1, false);
  }
  drag = null;
  lanesCanvas.classList.remove("grabbing");
});

lanesCanvas.addEventListener("pointercancel", () => {
  drag = null;
  lanesCanvas.classList.remove("grabbing");
});

lanesCanvas.addEventListener("pointerleave", () => {
  showTip(null);
  if (hovered) {
    hovered = null;
    redraw();
  }
});

function point(event) {
  const found = hit(event.offsetX, event.offsetY);
  const isSame = found?.type === hovered?.type && found?.index === hovered?.index;
  hovered = found;
  showTip(found, event.clientX, event.clientY);
  lanesCanvas.classList.toggle("pointing", Boolean(found));
  if (!isSame) redraw();
}

function jumpInOverview(event) {
  const place = placeOfTime(overviewTime(event.offsetX));
  const half = (view.to - view.from) / 2;
  setView(place - half, place + half);
}
overviewCanvas.addEventListener("pointerdown", (event) => {
  overviewCanvas.setPointerCapture(event.pointerId);
  jumpInOverview(event);
});
overviewCanvas.addEventListener("pointermove", (event) => {
  if (event.buttons & 1) jumpInOverview(event);
});

// ---- start ----

$("previous").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("zoom-in").addEventListener("click", () => zoom(0.6));
$("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
$("fit").addEventListener("click", fit);
$("by-step").addEventListener("click", () => setAxis(true));
$("by-time").addEventListener("click", () => setAxis(false));
$("violation").addEventListener("click", goToViolation);
$("copy").addEventListener("click", () => {
  navigator.clipboard?.writeText(data.command).then(() => { $("copy").textContent = "Copied"; }, () => {});
});

function measure() {
  width = Math.max(80, axisCanvas.getBoundingClientRect().width - ($("scroll").offsetWidth - $("scroll").clientWidth));
  for (const canvas of canvases) canvas.style.maxWidth = `${width}px`;
  redraw();
}

function start() {
  readColors();
  $("title").textContent = data.title || "Timeline";
  const failed = messages.filter((message) => message.outcome !== "ok" && message.outcome !== "open").length;
  $("summary").textContent = [
    `${steps.length.toLocaleString("en")} steps in ${duration(endOfTime - startOfTime)}`,
    data.omitted ? `the last of ${(steps.length + data.omitted).toLocaleString("en")}` : "",
    `${messages.length.toLocaleString("en")} messages, ${failed.toLocaleString("en")} without a good answer`,
    restarts.length ? `${restarts.length} restart${restarts.length === 1 ? "" : "s"}` : "",
    faults.length ? `${faults.length.toLocaleString("en")} fault${faults.length === 1 ? "" : "s"}` : "",
  ].filter(Boolean).join(" · ");
  $("command").hidden = !data.command;
  $("command-text").textContent = data.command;
  if (violations.length) {
    $("violation").hidden = false;
    $("violation").textContent = `${violations[0].invariant} violated at ${moment(violations[0].at)}: ${violations[0].text.split("\n")[0]}${violations.length > 1 ? ` (and ${violations.length - 1} more)` : ""}`;
  }
  showOutcomes();
  setAxis(true);
  measure();
  const linked = location.hash.match(/^#(step|message)=(\d+)$/);
  const list = { step: steps, message: messages };
  if (violations.length && steps.length) goToViolation();
  else if (steps.length > (width / STEP_WIDTH) * 1.6) setView(-0.6, width / STEP_WIDTH - 0.6);
  else fit();
  if (linked && Number(linked[2]) < list[linked[1]].length) select(linked[1], Number(linked[2]), true);
  showPanel();
  new ResizeObserver(measure).observe($("chart"));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColors();
    redraw();
  });
}

start();
