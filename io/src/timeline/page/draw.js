// Draws what is visible, and finds what lies under the pointer.

const canvases = ["overview", "axis", "lanes"].map((id) => document.getElementById(id));
const [overviewCanvas, axisCanvas, lanesCanvas] = canvases;
const view = { from: 0, to: 1 };
const selection = { type: null, index: -1 };
let hovered = null;
let width = 600;
let colors = {};
const FONT = '12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const COLOR_NAMES = [
  "page", "lane", "lane-2", "line", "text", "soft-text", "accent", "accent-fill", "ok", "ok-fill", "fault", "fault-fill", "overdue",
  "overdue-fill", "cancelled", "cancelled-fill", "lost", "lost-fill", "open", "open-fill", "soft", "firm", "head", "known", "band",
  "violation", "mark",
];
const SUFFIX = { fault: " ✕ failed", overdue: " ✕ overdue", cancelled: " ✕ cancelled", lost: " ✕ lost", open: " …", ok: "" };

function readColors() {
  const style = getComputedStyle(document.documentElement);
  colors = Object.fromEntries(COLOR_NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

const x = (place) => ((place - view.from) / (view.to - view.from)) * width;
const placeAt = (px) => view.from + (px / width) * (view.to - view.from);

// What a step sends begins a little after what it answers ends, so that both can be told apart.
const aside = () => (axis.byStep ? Math.min(3.5, (width / (view.to - view.from)) * 0.09) : 0);
const startX = (message) => x(starts[message]) + aside();
const endX = (message) => x(ends[message]) - (messages[message].ended_by === undefined ? 0 : aside());

// A context in CSS pixels, cleared.
function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  return pen;
}

const textWidths = new Map();
function textWidth(pen, text) {
  let known = textWidths.get(text);
  if (known === undefined) {
    known = pen.measureText(text).width;
    if (textWidths.size > 20000) textWidths.clear();
    textWidths.set(text, known);
  }
  return known;
}

// The text as far as it fits; nothing if that says too little.
function fitted(pen, text, room) {
  if (room < 7) return "";
  if (textWidth(pen, text) <= room) return text;
  if (room < 34) return "";
  let keep = Math.floor((text.length * room) / textWidth(pen, text));
  while (keep > 3 && textWidth(pen, `${text.slice(0, keep)}…`) > room) keep -= 1;
  return keep > 3 ? `${text.slice(0, keep)}…` : "";
}

function label(pen, text, px, y, color, halo) {
  if (halo) {
    pen.strokeStyle = halo;
    pen.lineWidth = 3.5;
    pen.lineJoin = "round";
    pen.strokeText(text, px, y);
  }
  pen.fillStyle = color;
  pen.fillText(text, px, y);
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

function arrowHead(pen, px, y, angle, size) {
  pen.beginPath();
  pen.moveTo(px, y);
  pen.lineTo(px - size * Math.cos(angle - 0.42), y - size * Math.sin(angle - 0.42));
  pen.lineTo(px - size * Math.cos(angle + 0.42), y - size * Math.sin(angle + 0.42));
  pen.closePath();
  pen.fill();
}

// ---- everything ----

let isScheduled = false;
function redraw() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    drawOverview();
    drawAxis();
    drawLanes();
    showValues();
  });
}

function highlighted() {
  const set = new Set();
  const add = ({ type, index }) => {
    if (type === "message") set.add(index);
    if (type !== "step") return;
    const step = steps[index];
    for (const message of [step.message, ...(step.sends ?? []), ...(step.gives_up ?? [])]) {
      if (message !== undefined) set.add(message);
    }
  };
  add(selection);
  if (hovered) add(hovered);
  return set;
}

function drawLanes() {
  const pen = prepare(lanesCanvas, layoutHeight);
  layout.forEach((lane, index) => {
    pen.fillStyle = index % 2 ? colors["lane-2"] : colors.lane;
    pen.fillRect(0, lane.top, width, lane.height);
    pen.fillStyle = colors.line;
    pen.fillRect(0, lane.top + lane.height - 1, width, 1);
  });
  drawMarks(pen);
  for (const lane of layout) {
    drawHeads(pen, lane);
    drawBands(pen, lane);
  }
  const visible = layout.map((lane) => ({ lane, rows: visibleRows(lane) }));
  const chosen = highlighted();
  drawArrows(pen, visible, chosen);
  for (const { lane, rows } of visible) rows.forEach((items, row) => drawRow(pen, lane, row, items, chosen));
  drawConductor(pen);
  drawClock(pen);
  for (const lane of layout) drawNotes(pen, lane);
  drawViolations(pen);
}

// Per row the messages that reach into the view.
function visibleRows(lane) {
  return lane.rows.map((row) => {
    const items = [];
    for (let i = firstIndex(row.items.length, (k) => row.reach[k] >= view.from); i < row.items.length; i += 1) {
      if (starts[row.items[i]] > view.to) break;
      items.push(row.items[i]);
    }
    return items;
  });
}

function conductorLine() {
  const part = laneOf.get(CONDUCTOR).parts.steps;
  return part.top + 11;
}

function drawArrows(pen, visible, chosen) {
  const count = visible.reduce((sum, { rows }) => sum + rows.reduce((total, items) => total + items.length, 0), 0);
  const isDense = count > 700 || (width / Math.max(1, count)) * visible.length < 9;
  const y = conductorLine();
  const isCrowd = count > width * 1.5;
  const drawn = new Set();
  for (const { lane, rows } of visible) {
    rows.forEach((items, row) => {
      const top = rowTop(lane, row);
      const isAbove = top < y;
      const edge = isAbove ? top + lane.rowHeight - 2 : top + 1;
      for (const index of items) {
        const isChosen = chosen.has(index);
        if (isCrowd && !isChosen && messages[index].outcome === "ok") continue;
        // In a crowd one arrow per few pixels shows as much as all of them.
        const key = `${lane.actor} ${Math.round(x(starts[index]) / (isDense ? 4 : 1))} ${row}`;
        if (isDense && !isChosen && drawn.has(key)) continue;
        drawn.add(key);
        drawArrow(pen, index, edge, y, isAbove, isChosen, isDense);
      }
    });
  }
}

function drawArrow(pen, index, edge, y, isAbove, isChosen, isDense) {
  const message = messages[index];
  const from = startX(index);
  const to = endX(index);
  const color = colors[message.outcome];
  const up = isAbove ? -1 : 1;
  pen.globalAlpha = isDimmed(index) ? 0.08 : isChosen ? 1 : isDense ? 0.14 : 0.62;
  pen.strokeStyle = color;
  pen.fillStyle = color;
  pen.lineWidth = isChosen ? 2.4 : 1.1;
  if (message.sent_by !== undefined && from >= -50 && from <= width + 50) {
    const lostOnTheWay = message.outcome === "lost" && message.arrived_at === undefined;
    if (lostOnTheWay) pen.setLineDash([4, 4]);
    line(pen, from, y + up * 6, from, edge);
    pen.setLineDash([]);
    if (!isDense || isChosen) arrowHead(pen, from, edge, isAbove ? -Math.PI / 2 : Math.PI / 2, isChosen ? 9 : 7);
  }
  if (message.ended_by !== undefined && to >= -50 && to <= width + 50) {
    const isAnswer = message.outcome === "ok" || message.outcome === "fault";
    if (!isAnswer) {
      pen.setLineDash([1.5, 3.5]);
      pen.globalAlpha *= 0.7;
    }
    line(pen, to, edge, to, y + up * 6);
    pen.setLineDash([]);
    if (isAnswer && (!isDense || isChosen)) arrowHead(pen, to, y + up * 6, isAbove ? Math.PI / 2 : -Math.PI / 2, isChosen ? 9 : 7);
  }
  for (const step of lateAnswers.get(index) ?? []) {
    const late = x(placeOfStep(step));
    if (late < -50 || late > width + 50) continue;
    pen.globalAlpha = isDimmed(index) ? 0.08 : isChosen ? 1 : isDense ? 0.14 : 0.7;
    pen.strokeStyle = pen.fillStyle = colors.overdue;
    pen.setLineDash([2, 3]);
    line(pen, to, edge - up * 5, late, edge - up * 5);
    line(pen, late, edge - up * 5, late, y + up * 6);
    pen.setLineDash([]);
    if (!isDense || isChosen) arrowHead(pen, late, y + up * 6, isAbove ? Math.PI / 2 : -Math.PI / 2, 7);
  }
  pen.globalAlpha = 1;
}

function drawRow(pen, lane, row, items, chosen) {
  const top = rowTop(lane, row) + 1;
  const height = lane.rowHeight - 3.5;
  let drawnTo = -Infinity;
  items.forEach((index, i) => {
    const message = messages[index];
    const left = startX(index);
    const right = Math.max(left + 2, endX(index));
    const isChosen = chosen.has(index);
    if (right <= drawnTo && message.outcome === "ok" && !isChosen && !searched.messages) return;
    drawnTo = Math.max(drawnTo, right - 0.75);
    pen.globalAlpha = isDimmed(index) ? 0.2 : 1;
    const from = Math.max(left, -20);
    const to = Math.min(right, width + 20);
    pen.fillStyle = colors[`${message.outcome}-fill`];
    pen.strokeStyle = colors[message.outcome];
    pen.lineWidth = isChosen ? 2.4 : 1.2;
    const isWide = right - left > 5;
    if (isWide) {
      if (["cancelled", "lost", "open"].includes(message.outcome)) pen.setLineDash([4, 3]);
      pen.beginPath();
      pen.roundRect(from, top, to - from, height, 3);
      pen.fill();
      pen.stroke();
      pen.setLineDash([]);
      if (message.arrived_at !== undefined && message.outcome !== "open") {
        // What the peer has seen is darker than what is still on its way.
        const arrived = x(placeOfTime(message.arrived_at));
        if (arrived > from && arrived < to) {
          pen.fillStyle = colors[message.outcome];
          pen.globalAlpha *= 0.16;
          pen.fillRect(arrived, top, to - arrived, height);
          pen.globalAlpha = isDimmed(index) ? 0.2 : 1;
        }
      }
    } else {
      pen.fillStyle = colors[message.outcome];
      pen.fillRect(from, top, Math.max(isChosen ? 4 : 1.5, to - from), height);
    }
    const next = i + 1 < items.length ? x(starts[items[i + 1]]) : width;
    const begin = Math.max(left, 0) + 6;
    // Beyond the end of a bar an arrow may begin: text goes there only if there is no room inside.
    const text = fitted(pen, message.label + SUFFIX[message.outcome], Math.max(right - 5, next - 6) - begin);
    if (text && !lane.isCollapsed) label(pen, text, begin, top + height / 2 + 0.5, colors.text, textWidth(pen, text) > right - begin ? colors.lane : null);
    pen.globalAlpha = 1;
  });
}

// ---- the conductor ----

function visibleSteps() {
  const from = firstIndex(steps.length, (index) => placeOfStep(index) >= view.from);
  const to = firstIndex(steps.length, (index) => placeOfStep(index) > view.to);
  return [Math.max(0, from - 1), Math.min(steps.length, to + 1)];
}

function stepColor(step) {
  if (step.refused) return colors.overdue;
  if (step.kind === "failed") return colors.fault;
  if (step.kind === "deadline") return colors.overdue;
  if (step.kind === "verified") return step.message !== undefined && messages[step.message].outcome === "fault" ? colors.fault : colors.firm;
  if (step.kind === "answered") return colors.ok;
  return colors.text;
}

function drawConductor(pen) {
  const lane = laneOf.get(CONDUCTOR);
  const y = conductorLine();
  pen.strokeStyle = colors["soft-text"];
  pen.lineWidth = 1;
  line(pen, 0, y, width, y);
  const [from, to] = visibleSteps();
  const spacing = width / Math.max(1, to - from);
  const radius = spacing > 14 ? 5.5 : spacing > 6 ? 3.5 : 2;
  let drawnTo = -Infinity;
  let numberTo = -Infinity;
  for (let index = from; index < to; index += 1) {
    const px = x(placeOfStep(index));
    const isChosen = selection.type === "step" && selection.index === index;
    if (px < drawnTo && !isChosen) continue;
    drawnTo = px + (radius < 3 ? 1 : 0);
    pen.globalAlpha = searched.steps && !searched.steps[index] ? 0.15 : 1;
    drawStep(pen, steps[index], px, y, isChosen ? Math.max(6.5, radius + 1.5) : radius);
    const number = String(steps[index].seq);
    const room = textWidth(pen, number) / 2;
    if (spacing > 9 && px - room > numberTo) {
      pen.textAlign = "center";
      label(pen, number, px, y + 16, isChosen ? colors.text : colors["soft-text"], colors.lane);
      pen.textAlign = "left";
      numberTo = px + room + 6;
    }
    pen.globalAlpha = 1;
  }
  if (!lane.isCollapsed) {
    drawReports(pen, lane, from, to);
    drawDeadlines(pen, lane, from, to);
  }
}

function drawStep(pen, step, px, y, size) {
  pen.fillStyle = step.refused ? colors.lane : stepColor(step);
  pen.strokeStyle = stepColor(step);
  pen.lineWidth = 1.6;
  pen.beginPath();
  if (step.kind === "failed") {
    pen.moveTo(px, y - size * 1.15);
    pen.lineTo(px + size * 1.1, y + size * 0.9);
    pen.lineTo(px - size * 1.1, y + size * 0.9);
    pen.closePath();
  } else if (step.kind === "deadline") {
    pen.moveTo(px, y - size * 1.2);
    pen.lineTo(px + size * 1.2, y);
    pen.lineTo(px, y + size * 1.2);
    pen.lineTo(px - size * 1.2, y);
    pen.closePath();
  } else if (step.kind === "verified" || step.kind === "installed" || step.kind === "stop") {
    pen.rect(px - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
  } else {
    pen.arc(px, y, size, 0, 7);
  }
  pen.fill();
  pen.stroke();
}

function drawReports(pen, lane, from, to) {
  const y = lane.parts.reports.top + 8;
  let free = -Infinity;
  for (let index = from; index < to; index += 1) {
    const list = steps[index].reports;
    if (!list || !list.length) continue;
    const px = x(placeOfStep(index));
    if (px < free) continue;
    const worst = list.map((report) => reports[report]).sort((a, b) => severityRank(b) - severityRank(a))[0];
    let next = index + 1;
    while (next < to && !(steps[next].reports ?? []).length) next += 1;
    const room = (next < to ? x(placeOfStep(next)) : width) - px - 14;
    const color = colorOfSeverity(worst.severity);
    pen.globalAlpha = searched.steps && !searched.steps[index] ? 0.15 : 1;
    pen.fillStyle = color;
    pen.fillRect(px - 1, y - 5, 2.5, 11);
    const text = fitted(pen, (list.length > 1 ? `(${list.length}) ` : "") + worst.text.split("\n")[0], Math.min(room, 420));
    if (text) label(pen, text, px + 5, y, worst.severity === "debug" ? colors["soft-text"] : color, colors.lane);
    free = px + 3;
    pen.globalAlpha = 1;
  }
}

const severityRank = (report) => ["debug", "info", "warn", "error"].indexOf(report.severity);
const colorOfSeverity = (severity) => ({ error: colors.violation, warn: colors.fault, info: colors.accent })[severity] ?? colors.cancelled;

function drawDeadlines(pen, lane, from, to) {
  const y = lane.parts.deadlines.top + 8;
  let free = -Infinity;
  const first = Math.max(0, firstIndex(deadlines.length, (index) => deadlines[index].step >= from) - 1);
  const due = [];
  for (let index = first; index < deadlines.length && deadlines[index].step < to; index += 1) {
    if (deadlines[index].at !== undefined) due.push([x(placeOfTime(deadlines[index].at)), deadlines[index].reason]);
  }
  due.sort((a, b) => a[0] - b[0]);
  due.forEach(([px, reason], index) => {
    if (px < free || px > width || px < -200) return;
    pen.fillStyle = colors.overdue;
    pen.beginPath();
    pen.moveTo(px - 3.5, y - 4);
    pen.lineTo(px + 3.5, y - 4);
    pen.lineTo(px, y + 3);
    pen.fill();
    let next = index + 1;
    while (next < due.length && due[next][0] - px < 1) next += 1;
    const text = fitted(pen, `due: ${reason}`, (next < due.length ? due[next][0] : width) - px - 12);
    if (text) label(pen, text, px + 6, y, colors["soft-text"], colors.lane);
    free = px + 2;
  });
  if (selection.type !== "step") return;
  const next = deadlineAfter(selection.index);
  if (!next) return;
  const [px, end] = [x(placeOfStep(selection.index)), x(placeOfTime(next.at))];
  pen.strokeStyle = colors.overdue;
  pen.setLineDash([5, 3]);
  pen.lineWidth = 1.6;
  line(pen, px, y + 6, Math.max(px + 1, end), y + 6);
  pen.setLineDash([]);
}

function isClockStep(step) {
  return step.kind === "deadline" || step.kind === "stop" || step.kind === "installed";
}

function drawClock(pen) {
  const lane = laneOf.get(CLOCK);
  if (!lane) return;
  const y = lane.parts.events.top + 11;
  const [from, to] = visibleSteps();
  const bottom = conductorLine() + 7;
  const spacing = width / Math.max(1, to - from);
  let free = -Infinity;
  let drawnTo = -Infinity;
  for (let index = from; index < to; index += 1) {
    const step = steps[index];
    if (!isClockStep(step)) continue;
    const px = x(placeOfStep(index));
    const isChosen = selection.type === "step" && selection.index === index;
    if (px < drawnTo && !isChosen) continue;
    drawnTo = px + 1;
    const color = step.kind === "deadline" ? colors.overdue : colors["soft-text"];
    pen.globalAlpha = searched.steps && !searched.steps[index] ? 0.12 : isChosen ? 1 : spacing < 1.5 ? 0.04 : spacing < 4 ? 0.14 : 0.55;
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineWidth = isChosen ? 2.2 : 1;
    line(pen, px, y - 6, px, bottom);
    if (spacing > 6) arrowHead(pen, px, bottom, -Math.PI / 2, 6);
    pen.globalAlpha = searched.steps && !searched.steps[index] ? 0.12 : 1;
    drawStep(pen, step, px, y, spacing > 8 ? 4 : 2);
    let next = index + 1;
    while (next < to && !isClockStep(steps[next])) next += 1;
    const room = (next < to ? x(placeOfStep(next)) : width) - px - 16;
    if (px > free) {
      const text = fitted(pen, step.label, room);
      if (text) {
        label(pen, text, px + 8, y, colors.text, colors.lane);
        free = px + 8 + textWidth(pen, text);
      }
    }
    pen.globalAlpha = 1;
  }
}

// ---- bands, notes, heads, marks ----

function drawBands(pen, lane) {
  const part = lane.parts.bands;
  if (!part) return;
  lane.bands.forEach((row, rowIndex) => {
    const top = part.top + rowIndex * 18;
    row.items.forEach((band, index) => {
      const left = x(placeOfBeginning(band.from));
      const right = band.to === band.from ? left : x(band.to === undefined ? fullRange()[1] : placeOfTime(band.to));
      if (right < -5 || left > width + 5) return;
      const from = Math.max(left, -5);
      const to = Math.max(from + 3, Math.min(right, width + 5));
      const isChosen = selection.type === "fault" && faults[selection.index] === band;
      pen.fillStyle = colors.band;
      if (band.to !== band.from) {
        pen.globalAlpha = 0.06;
        pen.fillRect(from, lane.top, to - from, lane.height - 1);
      }
      pen.globalAlpha = isChosen ? 0.5 : 0.24;
      pen.fillRect(from, top + 1, to - from, 15);
      pen.globalAlpha = 1;
      pen.strokeStyle = colors.band;
      pen.lineWidth = isChosen ? 2.5 : 1;
      if (band.is_link) pen.setLineDash([5, 3]);
      pen.strokeRect(from, top + 1, to - from, 15);
      pen.setLineDash([]);
      const begin = Math.max(left, 0) + 5;
      const next = index + 1 < row.items.length ? x(placeOfTime(row.items[index + 1].from)) : width;
      const text = fitted(pen, band.kind, Math.max(right, next) - begin - 6);
      if (text) label(pen, text, begin, top + 9, colors.text, colors.lane);
    });
  });
}

function drawNotes(pen, lane) {
  const part = lane.parts.notes;
  if (!part) return;
  let free = -Infinity;
  lane.notes.forEach((note, index) => {
    const px = x(placeOfTime(note.at));
    if (px < free || px > width || px < -300) return;
    pen.fillStyle = colors["soft-text"];
    pen.beginPath();
    pen.arc(px, part.top + 9, 3, 0, 7);
    pen.fill();
    const next = lane.notes[index + 1] ? x(placeOfTime(lane.notes[index + 1].at)) : width;
    const text = fitted(pen, note.text, next - px - 14);
    if (text) label(pen, text, px + 7, part.top + 9, colors["soft-text"], colors.lane);
    free = px + 3;
  });
}

const HEAD_STYLES = { soft: ["soft", []], firm: ["firm", []], head: ["head", []], "known head": ["known", [2, 3]] };
const headStyle = (name) => HEAD_STYLES[name] ?? ["accent", [6, 3]];

function drawHeads(pen, lane) {
  const part = lane.parts.heads;
  if (!part) return;
  let [low, high] = [Infinity, -Infinity];
  const visible = lane.heads.map((head) => {
    const from = Math.max(0, firstIndex(head.points.length, (i) => placeOfTime(head.points[i][0]) >= view.from) - 1);
    const to = firstIndex(head.points.length, (i) => placeOfTime(head.points[i][0]) > view.to);
    for (let i = from; i < to; i += 1) {
      const value = head.points[i][1];
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return [head, from, to];
  });
  if (high < low) return;
  const [top, bottom] = [part.top + 14, part.top + part.height - 9];
  const y = (value) => (high === low ? (top + bottom) / 2 : bottom - ((value - low) / (high - low)) * (bottom - top));
  pen.fillStyle = colors["soft-text"];
  pen.globalAlpha = 0.25;
  pen.fillRect(0, bottom + 4, width, 1);
  pen.globalAlpha = 1;
  for (const [head, from, to] of visible) drawHead(pen, head, from, to, y);
}

function drawHead(pen, head, from, to, y) {
  const [name, dash] = headStyle(head.name);
  pen.strokeStyle = colors[name];
  pen.lineWidth = head.name === "firm" ? 2.6 : 1.7;
  pen.setLineDash(dash);
  pen.beginPath();
  let last = null;
  const numbers = [];
  for (let i = from; i < to; i += 1) {
    const [at, value] = head.points[i];
    const px = Math.max(-10, x(placeOfTime(at)));
    if (last !== null) pen.lineTo(px, y(last));
    if (value !== null) {
      if (last === null) pen.moveTo(px, y(value));
      else pen.lineTo(px, y(value));
      numbers.push([px, value]);
    }
    last = value;
  }
  if (last !== null) pen.lineTo(width + 5, y(last));
  pen.stroke();
  pen.setLineDash([]);
  if (head.name === "known head" && actorHas(head.actor, "head")) return;
  let free = -Infinity;
  numbers.forEach(([px, value], index) => {
    const next = numbers[index + 1] ? numbers[index + 1][0] : width;
    const text = String(value);
    const at = Math.max(px, 0) + 4;
    if (at < free || next - at < textWidth(pen, text) + 4) return;
    const below = head.name === "firm" ? 8 : -7;
    label(pen, text, at, y(value) + below, colors[name], colors.lane);
    free = at + textWidth(pen, text) + 10;
  });
}

const actorHas = (actor, name) => heads.some((head) => head.actor === actor && head.name === name);

// Restarts and the selected step, through all lanes.
function drawMarks(pen) {
  for (const index of restarts) {
    const px = x(placeOfStep(index)) - 4;
    if (px < -5 || px > width + 90) continue;
    pen.strokeStyle = colors.text;
    pen.setLineDash([8, 3, 2, 3]);
    pen.lineWidth = 1.2;
    line(pen, px, 0, px, layoutHeight);
    pen.setLineDash([]);
  }
  if (selection.type === "step") {
    const px = x(placeOfStep(selection.index));
    pen.fillStyle = colors.accent;
    pen.globalAlpha = 0.16;
    pen.fillRect(px - 5, 0, 10, layoutHeight);
    pen.globalAlpha = 1;
  }
}

const restarts = steps.map((_, index) => index).filter((index) => index > 0 && steps[index].life !== steps[index - 1].life);

function drawViolations(pen) {
  for (const violation of violations) {
    const px = x(placeOfTime(violation.at));
    if (px < -5 || px > width + 5) continue;
    pen.strokeStyle = colors.violation;
    pen.lineWidth = 2.5;
    line(pen, px, 0, px, layoutHeight);
  }
}

// ---- axis and overview ----

function drawAxis() {
  const pen = prepare(axisCanvas, 26);
  pen.fillStyle = colors["soft-text"];
  pen.strokeStyle = colors.line;
  if (axis.byStep) drawStepTicks(pen);
  else drawTimeTicks(pen);
  let free = -Infinity;
  for (const index of restarts) {
    const px = x(placeOfStep(index)) - 4;
    if (px < free) continue;
    flag(pen, px, "restart", colors["soft-text"], true);
    free = px + 60;
  }
  if (selection.type === "step") {
    const px = x(placeOfStep(selection.index));
    const text = moment(steps[selection.index].at, resolution());
    flag(pen, px, text, colors.accent, true);
  }
  for (const violation of violations) flag(pen, x(placeOfTime(violation.at)), `${violation.invariant} violated`, colors.violation, false);
}

// To the left of its place for what is selected, to the right for what is violated: both are often at the same place.
function flag(pen, px, text, color, isLeft) {
  const room = textWidth(pen, text) + 12;
  if (px < -room || px > width + room) return;
  const left = Math.min(width - room, Math.max(0, isLeft ? px - room + 1 : px - 1));
  pen.fillStyle = color;
  pen.fillRect(left, 3, room, 18);
  pen.fillRect(px - 1, 20, 2, 6);
  label(pen, text, left + 6, 12.5, colors.lane);
}

const resolution = () => Math.max(1e3, ((timeOfPlace(view.to) - timeOfPlace(view.from)) / width) * 4);

function drawTimeTicks(pen) {
  const raw = ((view.to - view.from) / width) * 110;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    pen.fillStyle = colors.line;
    pen.fillRect(x(at), 18, 1, 8);
    label(pen, moment(at, step), x(at) + 4, 13, colors["soft-text"]);
  }
}

function drawStepTicks(pen) {
  const each = Math.max(1, Math.ceil(((view.to - view.from) / width) * 96));
  const from = Math.max(0, Math.ceil(view.from / each) * each);
  for (let index = from; index <= Math.min(view.to, steps.length - 1); index += each) {
    pen.fillStyle = colors.line;
    pen.fillRect(x(index), 18, 1, 8);
    label(pen, moment(steps[index].at, resolution()), x(index) + 4, 13, colors["soft-text"]);
  }
}

const overviewX = (at) => ((at - startOfTime) / (Math.max(endOfTime, startOfTime + 1) - startOfTime)) * width;
const overviewTime = (px) => startOfTime + (px / width) * (endOfTime - startOfTime);

// What does not depend on the view is drawn once per width and colour scheme.
const overviewImage = { key: "", canvas: document.createElement("canvas") };

function drawOverview() {
  const key = `${width} ${window.devicePixelRatio} ${colors.page}`;
  if (overviewImage.key !== key) {
    drawRun(prepare(overviewImage.canvas, 44));
    overviewImage.key = key;
  }
  const pen = prepare(overviewCanvas, 44);
  pen.drawImage(overviewImage.canvas, 0, 0, width, 44);
  const left = overviewX(timeOfPlace(view.from));
  const right = Math.max(left + 3, overviewX(timeOfPlace(view.to)));
  pen.fillStyle = colors.accent;
  pen.globalAlpha = 0.13;
  pen.fillRect(left, 0, right - left, 44);
  pen.globalAlpha = 1;
  pen.strokeStyle = colors.accent;
  pen.lineWidth = 1.5;
  pen.strokeRect(Math.max(0.75, left), 0.75, Math.min(width - 1.5, right) - Math.max(0.75, left), 42.5);
}

// How busy the run was, how much of that was trouble, and what was wrong.
function drawRun(pen) {
  const bins = Math.max(1, Math.floor(width / 3));
  const counts = new Array(bins).fill(0);
  const troubles = new Array(bins).fill(0);
  for (const step of steps) {
    const bin = Math.min(bins - 1, Math.max(0, Math.floor((overviewX(step.at) / width) * bins)));
    counts[bin] += 1;
    const isTrouble = step.kind === "failed" || step.refused || (step.gives_up ?? []).length > 0;
    if (isTrouble) troubles[bin] += 1;
  }
  const most = Math.max(...counts, 1);
  for (let bin = 0; bin < bins; bin += 1) {
    // Square roots, or bursts would hide everything else.
    const height = Math.sqrt(counts[bin] / most) * 34;
    const bad = Math.sqrt(troubles[bin] / most) * 34;
    if (!height) continue;
    pen.fillStyle = colors.ok;
    pen.globalAlpha = 0.6;
    pen.fillRect(bin * 3, 42 - Math.max(1, height), 2, Math.max(1, height));
    pen.globalAlpha = 1;
    pen.fillStyle = colors.fault;
    if (bad) pen.fillRect(bin * 3, 42 - Math.max(1.5, bad), 2, Math.max(1.5, bad));
  }
  pen.fillStyle = colors.band;
  for (const band of faults) {
    const left = overviewX(band.from);
    pen.globalAlpha = 0.6;
    pen.fillRect(left, 1, Math.max(2, overviewX(band.to ?? endOfTime) - left), 4);
  }
  pen.globalAlpha = 1;
  pen.fillStyle = colors.text;
  for (const index of restarts) pen.fillRect(overviewX(steps[index].at), 6, 1, 38);
  pen.fillStyle = colors.violation;
  for (const violation of violations) pen.fillRect(Math.min(width - 3, overviewX(violation.at) - 1), 0, 3, 44);
}

// ---- what lies at a point of the lanes ----

function hit(px, y) {
  const lane = layout.find((candidate) => y >= candidate.top && y < candidate.top + candidate.height);
  if (!lane) return null;
  const isIn = (part) => part && y >= part.top && y < part.top + part.height;
  const { parts } = lane;
  if (isIn(parts.steps) || isIn(parts.reports) || isIn(parts.events) || isIn(parts.deadlines)) {
    const only = isIn(parts.events) ? isClockStep : isIn(parts.reports) ? (step) => (step.reports ?? []).length > 0 : () => true;
    return nearestStep(px, only, isIn(parts.steps) ? 14 : 90);
  }
  if (isIn(parts.rows)) {
    for (let row = 0; row < lane.rows.length; row += 1) {
      const top = rowTop(lane, row);
      if (y >= top && y < top + lane.rowHeight) return nearestMessage(lane.rows[row], px);
    }
  }
  if (isIn(parts.bands)) {
    const row = lane.bands[Math.min(lane.bands.length - 1, Math.floor((y - parts.bands.top) / 18))];
    const band = row?.items.findLast((item) => x(placeOfTime(item.from)) - 4 <= px);
    if (band && Math.max(x(placeOfTime(band.to ?? endOfTime)), x(placeOfTime(band.from)) + 60) >= px) {
      return { type: "fault", index: faults.indexOf(band) };
    }
  }
  if (isIn(parts.notes)) {
    const note = lane.notes.findLast((item) => x(placeOfTime(item.at)) - 4 <= px);
    if (note && px - x(placeOfTime(note.at)) < 300) return { type: "note", index: notes.indexOf(note) };
  }
  return null;
}

function nearestStep(px, only, reach) {
  const [from, to] = visibleSteps();
  let best = null;
  let distance = reach;
  for (let index = from; index < to; index += 1) {
    if (!only(steps[index])) continue;
    const away = px - x(placeOfStep(index));
    // Labels stand to the right of what they belong to.
    const cost = Math.abs(away) * (away < -6 ? 4 : 1);
    if (cost <= distance) {
      distance = cost;
      best = { type: "step", index };
    }
  }
  return best;
}

function nearestMessage(row, px) {
  const place = placeAt(px + 3);
  const after = firstIndex(row.items.length, (k) => starts[row.items[k]] > place);
  for (let k = after - 1; k >= Math.max(0, after - 30); k -= 1) {
    const index = row.items[k];
    const text = messages[index].label.length + SUFFIX[messages[index].outcome].length;
    // The label may reach beyond the bar.
    if (Math.max(x(ends[index]), Math.max(0, x(starts[index])) + 10 + text * 6.4) + 3 >= px) return { type: "message", index };
  }
  return null;
}
