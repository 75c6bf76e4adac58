// What is said in words: the side panel, the tool tip and the labels of the lanes. Text enters the document as text only.

const $ = (id) => document.getElementById(id);

// An element with properties and children; strings become text.
function element(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const tag = (kind, text) => element("span", { class: `tag ${kind}` }, text);
const tabs = { current: "selection", limit: 200, showsDebug: false };

function showPanel() {
  const serious = reports.filter((report) => severityRank(report) > 1).length;
  const names = [["selection", "Selection"], ["reports", `Reports${serious ? ` (${serious})` : ""}`], ["faults", `Faults (${faults.length})`]];
  $("tabs").replaceChildren(
    ...names.map(([name, text]) =>
      element("button", {
        type: "button", "aria-current": String(tabs.current === name), onclick: () => openTab(name),
      }, text),
    ),
  );
  const content = { selection: selectionContent, reports: reportsContent, faults: faultsContent }[tabs.current]();
  $("content").replaceChildren(...content.filter(Boolean));
}

function openTab(name) {
  tabs.current = name;
  tabs.limit = 200;
  showPanel();
  $("content").scrollTop = 0;
}

function selectionContent() {
  if (selection.type === "step") return stepContent(selection.index);
  if (selection.type === "message") return messageContent(selection.index);
  if (selection.type === "fault") return faultContent(faults[selection.index]);
  if (selection.type === "note") return noteContent(notes[selection.index]);
  return runContent();
}

// ---- the whole run ----

function runContent() {
  const counts = {};
  for (const message of messages) counts[message.outcome] = (counts[message.outcome] ?? 0) + 1;
  return [
    ...violations.map((violation) => violationBox(violation)),
    element("h2", {}, "The run"),
    definitions([
      ["Starts at", startText()],
      ["Lasts", duration(endOfTime - startOfTime)],
      ["Steps", `${steps.length.toLocaleString("en")}${data.omitted ? `, the last ones; ${data.omitted.toLocaleString("en")} before them are not kept` : ""}`],
      ["Messages", messages.length.toLocaleString("en")],
      ["Restarts", restarts.length ? String(restarts.length) : ""],
    ]),
    element("h3", {}, "How messages ended"),
    definitions(Object.entries(OUTCOMES).map(([outcome, text]) => [text, counts[outcome] ? counts[outcome].toLocaleString("en") : ""])),
    element("h3", {}, "How to read it"),
    element("ul", {}, ...HOW_TO_READ.map((text) => element("li", {}, text))),
  ];
}

const HOW_TO_READ = [
  "Each dot on the conductor's line is one event, with its number: ● an answer, ▲ a failure, ◆ a deadline, ■ a verification or a start. A hollow one was refused.",
  "Each bar is a message, from being sent to its end. It is light while on the way and darker once the peer has it.",
  "An arrow that ends at the conductor is an answer; a dotted line is a message that was given up; a dotted arrow is an answer that came too late or twice.",
  "An orange band is a fault: dashed on the link between the conductor and the peer, else at the peer itself.",
  "Curves in a lane are heads over time. ▼ marks a moment at which the conductor wanted to be woken.",
  "Click on a step, a message or a fault to see what happened there. Click on a lane's name to fold it.",
];

function startText() {
  const milliseconds = Number(BigInt(data.start || "0") / 1000000n);
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? data.start : date.toISOString().replace("T", " ").replace("Z", " UTC");
}

function violationBox(violation, shown) {
  const first = firstIndex(steps.length, (index) => steps[index].at > violation.at) - 1;
  return element(
    "div", { class: "box violation" },
    element("b", {}, `${violation.invariant} is violated`), ` at ${moment(violation.at)}\n`, violation.text, "\n",
    first >= 0 && first !== shown ? element("button", { type: "button", onclick: () => select("step", first, true) }, `Go to step ${steps[first].seq}`) : null,
  );
}

function definitions(rows) {
  const kept = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return element("dl", {}, ...kept.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

// ---- a step ----

function stepContent(index) {
  const step = steps[index];
  const since = index > 0 ? step.at - steps[index - 1].at : 0;
  const before = index === 0 ? "" : since > 0 ? `, ${duration(since)} after the one before` : ", in the same moment as the one before";
  const message = step.message === undefined ? null : messages[step.message];
  const near = violations.filter((violation) => violation.at === step.at || (index === steps.length - 1 && violation.at >= step.at));
  const next = deadlineAfter(index);
  return [
    ...near.map((violation) => violationBox(violation, index)),
    element("h2", {}, `${message ? `${laneName(message.to)}: ` : ""}${step.label}`),
    element("p", { class: "when" }, `Step ${step.seq}${step.life ? ` of life ${step.life + 1}` : ""}: ${KINDS[step.kind]} at ${moment(step.at, 1e3)}${before}`),
    step.refused ? element("div", { class: "box refused" }, `Refused: ${step.refused}`) : null,
    step.detail ? element("p", {}, step.detail) : null,
    message ? section("What it answers", messageList([step.message])) : null,
    section("Sent", messageList(step.sends)),
    section("Given up", messageList(step.gives_up)),
    section("Reported", (step.reports ?? []).map((report) => reportEntry(report, false))),
    step.exit ? element("div", { class: "box violation" }, element("b", {}, "Exit: "), step.exit) : null,
    section("Next deadline", next ? [element("p", {}, `${next.reason}, ${next.at > step.at ? `in ${duration(next.at - step.at)}` : "due now"} (${moment(next.at, 1e6)})`)] : []),
    ...stateContent(index),
  ];
}

function section(title, children) {
  return children && children.length ? element("section", {}, element("h3", {}, title), ...children) : null;
}

function messageList(indices) {
  if (!indices || !indices.length) return [];
  return [element("ul", { class: "plain" }, ...indices.map((index) => element("li", {}, messageEntry(index))))];
}

function messageEntry(index) {
  const message = messages[index];
  const took = message.ended_at === undefined ? "" : ` after ${duration(message.ended_at - message.sent_at)}`;
  return element(
    "button", { class: "entry", type: "button", onclick: () => select("message", index, true) },
    tag(message.outcome, OUTCOMES[message.outcome]), `${laneName(message.to)}: ${message.label} `,
    element("small", {}, `${took}${message.answer ? `: ${message.answer}` : ""}`),
  );
}

function stateContent(index) {
  const [before, after] = [stateAfter(index - 1), stateAfter(index)];
  const changed = new Set((steps[index].changes ?? []).map(([field]) => field));
  const show = (value) => (value === undefined ? "none" : String(value));
  const name = (field) => fields[field].replace(/^cells\.(\d+)\./, "cell $1: ").replaceAll("_", " ").replaceAll(".", " ");
  const byName = (a, b) => name(a).localeCompare(name(b), "en", { numeric: true });
  const diff = [...changed].sort(byName).map((field) =>
    element(
      "tr", {}, element("td", {}, name(field)),
      element("td", {}, element("del", {}, show(before.get(field))), " → ", element("ins", {}, show(after.get(field)))),
    ),
  );
  const rows = [...after.keys()].sort(byName).map((field) =>
    element("tr", { class: changed.has(field) ? "changed" : "" }, element("td", {}, name(field)), element("td", {}, show(after.get(field)))),
  );
  return [
    element("h3", {}, "What it changed in the conductor"),
    diff.length ? element("table", {}, element("tbody", {}, ...diff)) : element("p", { class: "when" }, "Nothing that its status shows."),
    element(
      "details", { open: stateContent.isOpen ?? true, ontoggle: (event) => { stateContent.isOpen = event.target.open; } },
      element("summary", {}, "State after this step"), element("table", {}, element("tbody", {}, ...rows)),
    ),
  ];
}

// ---- a message, a fault, a note ----

function messageContent(index) {
  const message = messages[index];
  const at = (time) => (time === undefined ? "" : `${moment(time, 1e3)}, ${duration(time - message.sent_at)} after it was sent`);
  const go = (step, text) => (step === undefined ? null : element("button", { type: "button", onclick: () => select("step", step, true) }, text));
  const late = lateAnswers.get(index) ?? [];
  return [
    element("h2", {}, `${laneName(message.to)}: ${message.label}`),
    element("p", {}, tag(message.outcome, OUTCOMES[message.outcome])),
    definitions([
      [message.to === "verification" ? "Given" : "Request", message.detail],
      [message.outcome === "ok" || message.outcome === "fault" ? "Answer" : "Reason", message.answer],
      ["Sent at", moment(message.sent_at, 1e3)],
      ["Arrived at", at(message.arrived_at)],
      [message.outcome === "ok" || message.outcome === "fault" ? "Answered at" : "Given up at", at(message.ended_at)],
      ["Deadline", at(message.deadline)],
      ["Command", `${message.ordinal}${message.life ? ` of life ${message.life + 1}` : ""}`],
    ]),
    element("p", { class: "group" },
      go(message.sent_by, message.sent_by === undefined ? "" : `Sent by step ${steps[message.sent_by].seq}`),
      go(message.ended_by, message.ended_by === undefined ? "" : `Ended by step ${steps[message.ended_by].seq}`)),
    section("Answered again, or too late", late.map((step) => go(step, `Step ${steps[step].seq} at ${moment(steps[step].at, 1e3)}`))),
  ];
}

function faultContent(fault) {
  return [
    element("h2", {}, fault.kind),
    definitions([
      ["Where", fault.is_link ? `between the conductor and ${laneName(fault.actor)}` : laneName(fault.actor)],
      ["From", moment(fault.from, 1e3)],
      ["To", fault.to === undefined ? "the end" : fault.to === fault.from ? "" : `${moment(fault.to, 1e3)}, for ${duration(fault.to - fault.from)}`],
      ["Details", fault.detail],
    ]),
  ];
}

function noteContent(note) {
  return [element("h2", {}, laneName(note.actor)), element("p", { class: "when" }, moment(note.at, 1e3)), element("p", {}, note.text)];
}

// ---- lists ----

function reportEntry(index, withTime) {
  const report = reports[index];
  return element(
    "button", { class: "entry", type: "button", onclick: () => select("step", report.step, true) },
    withTime ? element("small", {}, `${moment(steps[report.step].at)} `) : null, tag(report.severity, report.severity), report.text,
  );
}

function reportsContent() {
  const isShown = (report) => (tabs.showsDebug || report.severity !== "debug") && (!searched.text || report.text.toLowerCase().includes(searched.text));
  const shown = reports.map((_, index) => index).filter((index) => isShown(reports[index]));
  return [
    element("label", {}, element("input", {
      type: "checkbox", checked: tabs.showsDebug, onchange: (event) => { tabs.showsDebug = event.target.checked; showPanel(); },
    }), " debug as well"),
    ...longList(shown, (index) => reportEntry(index, true), searched.text ? "No report matches the search." : "No reports."),
  ];
}

function faultsContent() {
  const isShown = (fault) => `${fault.kind} ${laneName(fault.actor)} ${fault.detail ?? ""}`.toLowerCase().includes(searched.text);
  return longList(faults.map((_, index) => index).filter((index) => isShown(faults[index])), (index) => {
    const fault = faults[index];
    return element(
      "button", { class: "entry", type: "button", onclick: () => select("fault", index, true) },
      element("small", {}, `${moment(fault.from)} `), tag("fault", fault.kind), `${laneName(fault.actor)} `,
      element("small", {}, [fault.to === undefined ? "until the end" : fault.to > fault.from ? `for ${duration(fault.to - fault.from)}` : "", fault.detail ?? ""].filter(Boolean).join(": ")),
    );
  }, searched.text ? "No fault matches the search." : "No faults were injected.");
}

function longList(indices, entry, none) {
  if (!indices.length) return [element("p", { class: "when" }, none)];
  const more = indices.length - tabs.limit;
  return [
    element("ul", { class: "plain" }, ...indices.slice(0, tabs.limit).map((index) => element("li", {}, entry(index)))),
    more > 0 ? element("button", { type: "button", onclick: () => { tabs.limit += 1000; showPanel(); } }, `${more.toLocaleString("en")} more`) : null,
  ];
}

// ---- lane labels with the heads at the selected moment ----

function showLabels() {
  const nodes = layout.map((lane) => {
    const node = element(
      "div", { class: "lane" },
      element("button", {
        type: "button", "aria-expanded": String(!lane.isCollapsed), title: lane.isCollapsed ? "Unfold the lane" : "Fold the lane",
        onclick: () => fold(lane.actor),
      }, laneName(lane.actor)),
      element("div", { class: "values" }),
    );
    node.style.top = `${lane.top}px`;
    node.style.height = `${lane.height}px`;
    return node;
  });
  $("labels").replaceChildren(...nodes);
  $("labels").style.height = `${layoutHeight}px`;
}

function showValues() {
  const at = selection.type === "step" ? steps[selection.index].at : Math.min(endOfTime, timeOfPlace(view.to));
  layout.forEach((lane, index) => {
    const values = $("labels").children[index]?.querySelector(".values");
    if (!values) return;
    values.replaceChildren(
      ...lane.heads.map((head) => {
        const [color, dash] = headStyle(head.name);
        const key = element("i", { class: dash.length ? "dashed" : "" });
        key.style.borderTopColor = colors[color];
        return element("span", {}, key, `${head.name} ${headAt(head, at) ?? "–"}`);
      }),
    );
  });
}

// ---- tool tip ----

function showTip(found, clientX, clientY) {
  const tip = $("tip");
  tip.hidden = !found;
  if (!found) return;
  const lines = tipLines(found);
  tip.replaceChildren(element("b", {}, lines[0]), ...lines.slice(1).filter(Boolean).map((text) => element("span", {}, text)));
  const { width: w, height: h } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(window.innerWidth - w - 8, clientX + 14))}px`;
  tip.style.top = `${clientY + 18 + h > window.innerHeight ? Math.max(4, clientY - h - 12) : clientY + 18}px`;
}

function tipLines({ type, index }) {
  if (type === "message") {
    const message = messages[index];
    const took = message.ended_at === undefined ? "" : ` after ${duration(message.ended_at - message.sent_at)}`;
    return [`${laneName(message.to)}: ${message.label}`, `${OUTCOMES[message.outcome]}${took}`, message.detail, message.answer];
  }
  if (type === "fault") return [faults[index].kind, faults[index].detail];
  if (type === "note") return [notes[index].text, moment(notes[index].at)];
  const step = steps[index];
  const sent = (step.sends ?? []).length;
  return [
    `${step.seq}: ${step.label}`, `${KINDS[step.kind]} at ${moment(step.at, 1e3)}`, step.refused ? `refused: ${step.refused}` : "",
    sent ? `sends ${sent} message${sent === 1 ? "" : "s"}` : "", ...(step.reports ?? []).slice(0, 3).map((report) => reports[report].text),
  ];
}
