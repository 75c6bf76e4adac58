// The data, positions on the horizontal axis, and where everything lies. Draws nothing.

const data = JSON.parse(document.getElementById("data").textContent);
const { steps, messages, deadlines, faults, heads, notes, reports, violations, fields, lanes: actors } = data;
for (const message of messages) {
  message.life ??= 0;
  message.outcome ??= "ok";
}
for (const step of steps) step.life ??= 0;
const CONDUCTOR = "conductor";
const CLOCK = "clock";

const OUTCOMES = {
  ok: "answered", fault: "failed", overdue: "overdue", cancelled: "cancelled", lost: "lost", open: "no answer yet",
};
const KINDS = {
  installed: "installed", deadline: "deadline reached", answered: "answer", failed: "failure", verified: "verification", stop: "stop",
  gossiped: "message from a peer",
};

function laneName(actor) {
  const names = {
    celestia: "Celestia", cometbft: "CometBFT", sequencer: "Sequencer gRPC", peers: "Peers", conductor: "Conductor",
    verification: "Verification", clock: "Clock, operator",
  };
  return names[actor] ?? actor.replace(/^rollup:/, "Rollup cell-");
}

// ---- time ----

const endOfTime = Math.max(1, steps.length ? steps[steps.length - 1].at : 0, ...violations.map((violation) => violation.at));
const startOfTime = steps.length ? steps[0].at : 0;

// Nanoseconds as a length, with as many digits as are worth reading.
function duration(ns) {
  const size = Math.abs(ns);
  if (size < 1e3) return `${ns} ns`;
  if (size < 1e6) return `${trim(ns / 1e3, 1)} µs`;
  if (size < 1e9) return `${trim(ns / 1e6, size < 1e7 ? 2 : 1)} ms`;
  if (size < 120e9) return `${trim(ns / 1e9, 3)} s`;
  return moment(ns, 1e9);
}

function trim(number, digits) {
  return String(Number(number.toFixed(digits)));
}

// A moment of the run; `resolution` is the distance in nanoseconds that must stay visible.
function moment(ns, resolution = 1e6) {
  const digits = resolution >= 1e9 ? 0 : resolution >= 1e8 ? 1 : resolution >= 1e6 ? 3 : resolution >= 1e3 ? 6 : 9;
  const sign = ns < 0 ? "−" : "";
  const seconds = Math.abs(ns) / 1e9;
  if (seconds < 120) return `${sign}${seconds.toFixed(digits)} s`;
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - minutes * 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return `${sign}${minutes}:${rest}`;
}

// The first index at which `is` holds, which stays true from there on.
function firstIndex(length, is) {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (is(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

// ---- the horizontal axis: by step (all steps equally wide) or by time ----

const axis = { byStep: true };

function placeOfStep(index) {
  return axis.byStep ? index : steps[index].at;
}

function placeOfTime(at) {
  if (!axis.byStep) return at;
  const next = firstIndex(steps.length, (index) => steps[index].at > at);
  if (!steps.length) return 0;
  if (next === 0) return Math.max(-1, (at - steps[0].at) / 1e9);
  const before = steps[next - 1].at;
  // Beyond the last step a second is as wide as a step, up to two.
  if (next === steps.length) return next - 1 + Math.min(2, (at - before) / 1e9);
  return next - 1 + (at - before) / (steps[next].at - before);
}

// Where something that began at a moment begins: before everything that happened in that moment.
function placeOfBeginning(at) {
  const first = axis.byStep ? firstIndex(steps.length, (index) => steps[index].at >= at) : 0;
  return axis.byStep && first < steps.length && steps[first].at === at ? first : placeOfTime(at);
}

function timeOfPlace(place) {
  if (!axis.byStep || !steps.length) return place;
  const index = Math.min(steps.length - 1, Math.max(0, Math.floor(place)));
  const here = steps[index].at;
  if (place < 0) return here + place * 1e9;
  const next = index + 1 < steps.length ? steps[index + 1].at : here + 1e9;
  return here + (place - index) * (next - here);
}

function fullRange() {
  const from = axis.byStep ? 0 : Math.min(startOfTime, endOfTime);
  const to = axis.byStep ? Math.max(1, steps.length - 1, placeOfTime(endOfTime)) : Math.max(endOfTime, startOfTime + 1e6);
  const margin = axis.byStep ? Math.min(3.2, Math.max(0.6, (to - from) * 0.025)) : (to - from) * 0.025;
  return [from - margin, to + margin];
}

// ---- which messages and steps are shown ----

const hiddenOutcomes = new Set();
const searched = { text: "", steps: null, messages: null, count: 0 };

function textOfMessage(message) {
  return `${message.label} ${message.detail ?? ""} ${message.answer ?? ""} ${laneName(message.to)} ${OUTCOMES[message.outcome]}`;
}

function search(text) {
  searched.text = text.trim().toLowerCase();
  searched.steps = searched.messages = null;
  searched.count = 0;
  if (!searched.text) return;
  const finds = (haystack) => haystack.toLowerCase().includes(searched.text);
  searched.messages = messages.map((message) => finds(textOfMessage(message)));
  searched.steps = steps.map((step) => {
    const found =
      (step.message !== undefined && searched.messages[step.message]) ||
      (step.sends ?? []).some((index) => searched.messages[index]) ||
      (step.gives_up ?? []).some((index) => searched.messages[index]) ||
      (step.reports ?? []).some((index) => finds(reports[index].text)) ||
      finds(`#${step.seq} ${step.label} ${step.detail ?? ""} ${step.refused ?? ""} ${step.exit ?? ""} ${KINDS[step.kind]}`);
    if (found) searched.count += 1;
    return found;
  });
}

function isDimmed(messageIndex) {
  return searched.messages !== null && !searched.messages[messageIndex];
}

// ---- the state after a step ----

// Field index to value, after step `index`; -1 is before the first.
function stateAfter(index) {
  const state = new Map(data.base);
  for (let i = 0; i <= index; i += 1) {
    for (const [field, value] of steps[i].changes ?? []) {
      if (value === null) state.delete(field);
      else state.set(field, value);
    }
  }
  return state;
}

function deadlineAfter(step) {
  const next = firstIndex(deadlines.length, (index) => deadlines[index].step > step);
  const deadline = deadlines[next - 1];
  return deadline && deadline.at !== undefined ? deadline : null;
}

// The last value of a head at a moment.
function headAt(head, at) {
  const next = firstIndex(head.points.length, (index) => head.points[index][0] > at);
  return next === 0 ? null : head.points[next - 1][1];
}

// ---- rows: messages of a lane that overlap in time lie below each other ----

// Heights of rows: of most lanes, and of those in which much happens at once.
const ROW = 21;
const LOW_ROW = 17;
const ROWS_HIGH = 4;
const ROWS_MAX = 9;
// Up to so many rows are opened for the sake of labels; beyond that only for what is truly at the same time.
const ROWS_FOR_LABELS = 3;
// Steps that a label of so many characters needs at the width at which a page opens.
const labelRoom = (message) => (axis.byStep ? Math.max(0.05, (message.label.length * 6.4 + 14) / STEP_WIDTH) : 0);
const STEP_WIDTH = 34;
const TRACK = 54;
const collapsed = new Set();
const lateAnswers = new Map(); // message -> steps that brought its answer too late, or twice
steps.forEach((step, index) => {
  if (step.message === undefined || messages[step.message].ended_by === index) return;
  if (!lateAnswers.has(step.message)) lateAnswers.set(step.message, []);
  lateAnswers.get(step.message).push(index);
});

let starts = [];
let ends = [];
let layout = [];
let layoutHeight = 0;
let laneOf = new Map();

function arrange() {
  const last = fullRange()[1];
  starts = messages.map((message) => (message.sent_by === undefined ? placeOfTime(message.sent_at) : placeOfStep(message.sent_by)));
  ends = messages.map((message) => {
    if (message.ended_by !== undefined) return placeOfStep(message.ended_by);
    return message.ended_at === undefined ? last : placeOfTime(message.ended_at);
  });
  let top = 0;
  layout = actors.map((actor) => {
    const lane = arrangeLane(actor, top);
    top += lane.height;
    return lane;
  });
  laneOf = new Map(layout.map((lane) => [lane.actor, lane]));
  layoutHeight = top;
}

function arrangeLane(actor, top) {
  const isCollapsed = collapsed.has(actor);
  const lane = { actor, top, isCollapsed, rows: [], bands: [], notes: [], heads: [], parts: {} };
  const mine = [];
  messages.forEach((message, index) => {
    if (message.to === actor && !hiddenOutcomes.has(message.outcome)) mine.push(index);
  });
  mine.sort((a, b) => starts[a] - starts[b]);
  const limit = isCollapsed ? 1 : ROWS_MAX;
  for (const index of mine) {
    let row = lane.rows.find((candidate) => candidate.labelEnd <= starts[index]);
    const isFree = (candidate) => candidate.end <= starts[index];
    if (!row && lane.rows.length >= ROWS_FOR_LABELS) row = lane.rows.find(isFree);
    if (!row && lane.rows.length < limit) {
      row = { items: [], reach: [], end: -Infinity };
      lane.rows.push(row);
    }
    row ??= lane.rows.reduce((best, candidate) => (candidate.end < best.end ? candidate : best));
    row.end = Math.max(row.end, ends[index]);
    row.labelEnd = Math.max(row.end, starts[index] + labelRoom(messages[index]));
    row.items.push(index);
    row.reach.push(row.end);
  }
  lane.rowHeight = lane.rows.length > ROWS_HIGH ? LOW_ROW : ROW;
  lane.bands = packBands(faults.filter((fault) => fault.actor === actor), isCollapsed ? 1 : 3);
  lane.notes = notes.filter((note) => note.actor === actor);
  lane.heads = isCollapsed ? [] : heads.filter((head) => head.actor === actor && head.points.length);
  // From the conductor outwards: messages, faults, notes, heads.
  const parts = [];
  if (actor === CONDUCTOR) {
    parts.push(["reports", isCollapsed ? 0 : 18], ["steps", 34], ["deadlines", isCollapsed ? 0 : 20]);
    if (lane.bands.length) parts.unshift(["bands", lane.bands.length * 18 + 2]);
    if (lane.notes.length) parts.unshift(["notes", 18]);
  } else {
    if (actor === CLOCK) parts.push(["events", 24]);
    else parts.push(["rows", Math.max(1, lane.rows.length) * lane.rowHeight]);
    if (lane.bands.length) parts.push(["bands", lane.bands.length * 18 + 2]);
    if (lane.notes.length && !isCollapsed) parts.push(["notes", 18]);
    if (lane.heads.length) parts.push(["heads", TRACK]);
    if (actors.indexOf(actor) < actors.indexOf(CONDUCTOR)) parts.reverse();
  }
  let y = top + 6;
  for (const [name, height] of parts) {
    lane.parts[name] = { top: y, height };
    y += height;
  }
  lane.height = Math.max(y + 6 - top, isCollapsed ? 30 : 30 + 17 * lane.heads.length);
  return lane;
}

function packBands(bands, limit) {
  const rows = [];
  for (const band of bands) {
    const to = band.to ?? endOfTime;
    let row = rows.find((candidate) => candidate.end < band.from);
    if (!row && rows.length < limit) {
      row = { items: [], end: -Infinity };
      rows.push(row);
    }
    row ??= rows[rows.length - 1];
    row.end = Math.max(row.end, to);
    row.items.push(band);
  }
  return rows;
}

// Top of a message's row. Rows count from the conductor outwards.
function rowTop(lane, row) {
  const part = lane.parts.rows;
  const isAbove = lane.top < laneOf.get(CONDUCTOR).top;
  return isAbove ? part.top + part.height - (row + 1) * lane.rowHeight : part.top + row * lane.rowHeight;
}
