"use strict";
// Everything shown is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const first = JSON.parse($("first").textContent || "null");
let status = first && first.status;
let lag = first && first.lag;
let events = (first && first.events) || [];
const SHOWN = 100, KEPT = 1000, HOUR = 3600;

const el = (tag, props = {}, ...inside) => {
  const node = document.createElement(tag);
  Object.assign(node, props);
  node.append(...inside);
  return node;
};
const svg = (tag, attributes = {}) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
// Touches the page only where something changed, so that nothing is read out twice.
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const paint = (node, name) => { if (node.className !== name) node.className = name; };
const keyed = (parent, items, key, make, update) => {
  const old = new Map([...parent.children].map((c) => [c.dataset.key, c]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let node = old.get(name);
    if (node) old.delete(name);
    else { node = make(item); node.dataset.key = name; }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update(node, item);
  }
  for (const node of old.values()) node.remove();
};
const row = (names, head) => () => {
  const tr = el("tr");
  names.forEach((name, i) => {
    const cell = el(i === 0 ? "th" : "td");
    if (i === 0) cell.scope = "row"; else cell.dataset.name = name;
    if (head[i]) cell.className = head[i];
    tr.append(cell);
  });
  return tr;
};
const chip = (cell, text, tone) => {
  let node = cell.firstElementChild;
  if (!node) { node = el("span"); cell.append(node); }
  paint(node, "chip " + tone);
  put(node, text);
};

const seconds = (s) => s < 1 ? Math.round(s * 1000) + " ms" : s < 10 ? s.toFixed(1) + " s" : s < 60 ? Math.round(s) + " s"
  : s < HOUR ? Math.floor(s / 60) + " min" : s < 86400 ? Math.floor(s / HOUR) + " h" : Math.floor(s / 86400) + " d";
const ago = (time) => seconds(Math.max(0, Math.floor((Date.now() - Date.parse(time)) / 1000)));
const bytes = (n) => { for (const u of ["B", "kB", "MB", "GB"]) { if (n < 1000) return (u === "B" ? n : n.toFixed(1)) + " " + u; n /= 1000; } return n.toFixed(1) + " TB"; };
const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
const millis = (us) => (us / 1000).toFixed(us < 100000 ? 1 : 0) + " ms";
const stamp = (time) => { const d = new Date(time), z = (n, w = 2) => String(n).padStart(w, "0");
  return `${d.getFullYear()}-${z(d.getMonth() + 1)}-${z(d.getDate())} ${z(d.getHours())}:${z(d.getMinutes())}:${z(d.getSeconds())}`; };

const VIP = { active: "good", backup: "", init: "odd", fault: "bad" };
const PEER = { active: "good", backup: "", init: "odd", unknown: "bad", fault: "bad" };
const SERVER = { up: "good", down: "bad", drain: "odd", maint: "odd", unknown: "odd", unreachable: "bad" };

function alarms(s) {
  const all = [];
  if (s.maintenance) all.push([`${s.node} is in maintenance: it takes no address until "vipctl maintenance off".`, "odd"]);
  if ((s["config-errors"] || []).length) all.push(["The newest configuration was refused, the one before is in force:\n" + s["config-errors"].join("\n"), ""]);
  for (const v of s.vips) if (!v.owner) all.push([`Nobody owns ${v.name} (${v.addresses.join(", ")}).`, ""]);
  for (const v of s.vips) for (const c of v.conflicts || []) all.push([`${c.node ? `${c.node} (${c.mac})` : c.mac} claims ${c.address} of ${v.name}, too.`, ""]);
  for (const v of s.vips) for (const p of v.proofs || []) if (p.sees !== "owner") all.push([`${p.seer} ${p.sees === "other" ? `sees ${p.mac} answer` : "gets no answer"} for ${p.address} of ${v.name}.`, ""]);
  for (const p of s.peers) if (p["hears-this"] === false) all.push([`${p.name} does not hear ${s.node}.`, ""]);
  for (const p of s.peers) if (p["config-match"] === false) all.push([`${p.name} has other settings: ${(p["config-differs"] || []).join(", ") || "not known which"}.`, ""]);
  for (const w of s.witnesses || []) if (w["config-match"] === false) all.push([`${w.name} votes by other settings: ${(w["config-differs"] || []).join(", ")}.`, ""]);
  const members = s.etcd || [];
  if (members.length && members.every((e) => e.problem)) all.push(["No member of etcd answers: nothing can be renewed there.", ""]);
  for (const p of s.pools) {
    if ((p.conflict || []).length) all.push([`Conflict in ${p.name}: ${p.conflict.join(" and ")} can be written to beside ${p.incumbent}, which stays the primary.`, ""]);
    if ((p.disagreeing || []).length) all.push([`The nodes disagree on the primary of ${p.name}: here ${p.incumbent || "none"}, ${p.disagreeing.join(", ")}.`, ""]);
    if (p.servers.length && p.servers.every((x) => x.state !== "up")) all.push([`Pool ${p.name} has no usable server of its own.`, ""]);
  }
  keyed($("alarms"), all, (a) => a[0], () => el("p"), (n, [text, tone]) => { paint(n, "alarm " + tone); put(n, text); });
}

function vips(s) {
  $("vips").hidden = !s.vips.length;
  keyed($("vips").querySelector(".cards"), s.vips, (v) => v.name,
    () => el("article", { className: "card" }, el("div", { className: "top" }, el("h3"), el("span")), el("p", { className: "owner" }), el("p", { className: "mono" }), el("p", { className: "faint" })),
    (n, v) => {
      const [top, owner, addresses, why] = n.children;
      put(top.children[0], v.name);
      paint(top.children[1], "chip " + VIP[v.state]);
      put(top.children[1], `here: ${v.state}`);
      put(owner, v.owner ? `${v.owner} owns it` : "nobody owns it");
      put(addresses, v.addresses.join(", "));
      put(why, `${s.node} has been ${v.state} for ${ago(v.since)}: ${v.why}`);
    });
}

function nodes(s) {
  $("nodes").hidden = false;
  const owns = s.vips.some((v) => v.state === "active");
  const fault = s.vips.some((v) => v.state === "fault");
  const witnesses = (s.witnesses || []).map((w) => ({ ...w, state: w["last-heard-ms"] != null && w["last-heard-ms"] < 5000 ? "witness" : "unknown" }));
  const me = { name: s.node, state: owns ? "active" : fault ? "fault" : s.vips.length ? "backup" : "up", me: true };
  keyed($("nodes").querySelector("tbody"), [me, ...s.peers, ...witnesses], (p) => p.name, row(["Node", "State", "Last heard", "Configuration"], []), (n, p) => {
    const [name, state, heard, config] = n.children;
    put(name, p.me ? `${p.name} (this node)` : p.name);
    chip(state, p.state, PEER[p.state] ?? "");
    put(heard, p.me ? "\u2013" : p["last-heard-ms"] == null ? "never" : seconds(p["last-heard-ms"] / 1000) + " ago");
    put(config, p.me ? "\u2013" : p["config-match"] == null ? "not known" : p["config-match"] ? "the same" : "differs");
  });
}

function etcd(s) {
  const members = s.etcd || [];
  $("etcd").hidden = !members.length;
  keyed($("etcd").querySelector("tbody"), members, (e) => e.endpoint, row(["Member", "State", "Round trip", "Answers", "Failures"], ["mono", "", "n", "n", "n"]), (tr, e) => {
    const [name, state, took, answers, failures] = tr.children;
    put(name, e.endpoint);
    if (state.children.length < 2) state.append(el("span"), el("span", { className: "why" }));
    const asked = e.answers + e.failures > 0;
    chip(state, e.problem ? "fails" : asked ? "answers" : "not asked yet", e.problem ? "bad" : asked ? "good" : "");
    put(state.lastChild, e.problem || "");
    put(took, e["round-trip-us"] == null ? "\u2013" : millis(e["round-trip-us"]));
    put(answers, number(e.answers));
    put(failures, number(e.failures));
  });
}

const series = (pool, server) => {
  const found = lag && lag.series.find((x) => x.pool === pool && x.server === server);
  return found ? found["lag-ms"] : [];
};
function spark(cell, points, top, label) {
  let box = cell.querySelector("svg");
  const known = points.filter((p) => p != null);
  if (known.length < 2) { if (box) box.remove(); return; }
  if (!box) {
    box = svg("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img" });
    box.append(svg("line", { x1: 0, x2: 100, y1: 19.5, y2: 19.5 }), svg("path"));
    cell.append(box);
  }
  const slots = lag ? Math.round(HOUR / lag["every-s"]) : points.length;
  let d = "", pen = false;
  points.forEach((p, i) => {
    if (p == null) { pen = false; return; }
    const x = 100 - (points.length - 1 - i) / (slots - 1) * 100, y = 19 - p / top * 18;
    d += `${pen ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
    pen = true;
  });
  box.lastElementChild.setAttribute("d", d);
  if (box.getAttribute("aria-label") !== label) box.setAttribute("aria-label", label);
}

function pools(s) {
  $("pools").hidden = !s.pools.length;
  const names = ["Server", "State", "Role", "Lag, last hour", "Sessions"];
  keyed($("pools").querySelector(".pools"), s.pools, (p) => p.name, () => {
    const heads = el("tr");
    names.forEach((name, i) => heads.append(el("th", { scope: "col", className: i === 4 ? "n" : "" }, name)));
    return el("article", { className: "pool" }, el("div", { className: "top" }, el("h3"), el("span", { className: "faint" })),
      el("table", {}, el("thead", {}, heads), el("tbody")));
  }, (n, p) => {
    put(n.querySelector("h3"), p.name);
    const up = p.servers.filter((x) => x.state === "up").length;
    const waiting = p.queue && p.queue.waiting ? `, ${p.queue.waiting} clients wait` : "";
    put(n.querySelector(".top span"), `${up} of ${p.servers.length} usable${waiting}`);
    const all = p.servers.map((x) => series(p.name, x.name));
    // One scale in a pool, so that its servers can be compared.
    const top = Math.max(1000, ...all.flat().filter((x) => x != null));
    keyed(n.querySelector("tbody"), p.servers, (x) => x.name, row(names, ["", "", "", "lag", "n"]), (tr, x) => {
      const [name, state, role, lagged, sessions] = tr.children;
      if (!name.firstChild) name.append(el("span"), el("span", { className: "why mono" }));
      put(name.firstChild, x.name);
      put(name.lastChild, x.address === x.name ? "" : x.address);
      if (state.children.length < 2) state.append(el("span"), el("span", { className: "why" }));
      chip(state, x.state, SERVER[x.state]);
      put(state.lastChild, x.why);
      put(role, x.role || "\u2013");
      if (!lagged.firstElementChild) lagged.append(el("span"));
      const points = series(p.name, x.name), most = Math.max(...points.filter((q) => q != null), 0);
      put(lagged.firstElementChild, x["lag-ms"] == null ? "\u2013" : seconds(x["lag-ms"] / 1000) + (points.length > 1 ? `, at most ${seconds(most / 1000)}` : ""));
      spark(lagged, points, top, `Lag of ${x.name} in the last hour, at most ${seconds(most / 1000)}`);
      put(sessions, number(x.sessions));
    });
  });
}

function listeners(s) {
  $("listeners").hidden = !s.listeners.length;
  const n = "n";
  keyed($("listeners").querySelector("tbody"), s.listeners, (l) => l.name,
    row(["Listener", "Bind", "Sessions", "Since start", "From clients", "To clients"], ["", "mono", n, n, n, n]), (tr, l) => {
      [l.name, l.bind, number(l.sessions), number(l.total), bytes(l["bytes-in"]), bytes(l["bytes-out"])].forEach((text, i) => put(tr.children[i], text));
    });
}

function dns(s) {
  $("dns").hidden = !s.dns.length;
  keyed($("dns").querySelector("tbody"), s.dns, (d) => d.name, row(["Name", "State", "Published", "Desired"], ["", "", "mono", "mono"]), (tr, d) => {
    put(tr.children[0], d.name);
    chip(tr.children[1], d["in-sync"] ? "in sync" : "differs", d["in-sync"] ? "good" : "bad");
    put(tr.children[2], d.published.join(", ") || "nothing");
    put(tr.children[3], d.desired.join(", ") || "nothing");
  });
}

const FAILOVERS = ["takeover", "switchover", "vip", "fault", "maintenance", "start", "stop"];
const TONES = { warning: "odd", error: "bad" };
function timeline(steps) {
  const marks = [steps["detected-us"] ?? 0, steps["decided-us"], steps["address-in-us"], steps["announced-us"]];
  const words = [steps["detected-us"] == null ? "" : "detected", "decided", "address in", "announced"];
  const end = Math.max(marks[3], 1), box = svg("svg", { class: "line", viewBox: "0 0 1000 18", preserveAspectRatio: "none", role: "img" });
  const text = el("div", { className: "steps" });
  let from = 0;
  box.append(svg("rect", { x: 0, y: 4, width: 1000, height: 10 }));
  marks.forEach((mark, i) => {
    if (words[i]) {
      const x = from / end * 1000;
      box.append(svg("rect", { class: "s" + i, x, y: 4, width: Math.max(2, mark / end * 1000 - x), height: 10 }));
      text.append(el("span", { className: "s" + i }, `${words[i]} ${millis(mark)}`));
    }
    from = mark;
  });
  box.setAttribute("aria-label", "Time line: " + text.textContent);
  return [box, text];
}
function history() {
  const all = document.querySelector("input[name=show]:checked").value === "all";
  const shown = events.filter((e) => all || FAILOVERS.includes(e.kind)).slice(-SHOWN).reverse();
  $("nothing").hidden = shown.length > 0;
  keyed($("history").querySelector("ol"), shown, (e) => e.time + e.seq, (e) => {
    const text = el("div", {}, TONES[e.level] ? el("span", { className: "chip " + TONES[e.level] }, e.level) : "", " " + e.message);
    if (e.steps) text.append(...timeline(e.steps));
    return el("li", {}, el("time", { dateTime: e.time }, stamp(e.time)), text);
  }, () => {});
}

function draw() {
  if (!status) return;
  document.title = `${status.cluster} on ${status.node}`;
  put($("cluster"), status.cluster);
  put($("node"), `as ${status.node} sees it, vipd ${status.version}`);
  for (const part of [alarms, vips, nodes, etcd, pools, listeners, dns]) part(status);
}
function live(ok, text) {
  paint($("live"), "chip " + (ok ? "good live" : "bad"));
  put($("live-text"), text);
}
async function refetch() {
  try {
    const answer = await fetch("/lag.json");
    if (answer.ok) { lag = await answer.json(); draw(); }
  } catch { /* the live stream says that the daemon is away */ }
}
function follow() {
  const source = new EventSource("/live");
  source.onopen = () => live(true, "live");
  source.onerror = () => live(false, "no answer, trying again");
  source.addEventListener("status", (m) => { status = JSON.parse(m.data); live(true, "live"); draw(); });
  source.addEventListener("history", (m) => { events = JSON.parse(m.data); history(); });
  source.addEventListener("happened", (m) => {
    const event = JSON.parse(m.data);
    events = [...events, event].slice(-KEPT);
    if (FAILOVERS.includes(event.kind)) put($("said"), event.message);
    history();
  });
}
document.querySelectorAll("input[name=show]").forEach((i) => i.addEventListener("change", history));
draw();
history();
// After the page counts as loaded: the stream has no end.
addEventListener("load", () => setTimeout(follow, 0));
setInterval(refetch, 30000);
