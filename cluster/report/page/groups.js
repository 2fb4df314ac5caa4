// The browser of recorded groups. Text of prompts and answers only ever becomes text nodes.
"use strict";
const groups = (() => {
  const PAGE = 12; // groups shown at first, and with each "Show more"
  const FAILED = "verifier_error"; // a time-out or a crash of the answer's program is a wrong answer
  let all = [], limit = PAGE;
  const open = new Set();

  function element(tag, name, ...children) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  const kindOf = (s) => s.verdict === FAILED ? "failed" : s.verdict === "correct" ? "right" : s.truncated ? "truncated" : "wrong";
  const NAMES = { correct: "right", verifier_error: "verifier failed" };
  const verdictName = (s) => (NAMES[s.verdict] || s.verdict) + (s.truncated ? ", truncated" : "");

  function fits(sample, wanted) {
    if (!wanted) return true;
    if (wanted === "right") return sample.verdict === "correct";
    if (wanted === "truncated") return sample.truncated;
    if (wanted === "failed") return sample.verdict === FAILED;
    return sample.verdict !== "correct" && sample.verdict !== FAILED;
  }

  const hasGradient = (group) => group.samples.some((s) => s.advantage);

  function mark(sample) {
    const made = element("i", `mark ${kindOf(sample)}`);
    made.title = verdictName(sample);
    return made;
  }

  const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);

  function advantage(value, largest) {
    const bar = element("span", "advantage"), part = element("i", value >= 0 ? "up" : "down");
    part.style.width = `${largest ? 50 * Math.abs(value) / largest : 0}%`;
    bar.append(part);
    return bar;
  }

  function sampleRow(sample, largest) {
    const figures = element("div", "figures");
    const add = (name, value, ...more) => figures.append(element("span", value.length > 30 ? "long" : "", name && `${name} `, element("b", "", value), ...more));
    add("", verdictName(sample));
    if (sample.answer && sample.answer.trim() !== (sample.text || "").trim()) add("answer", sample.answer);
    if (sample.reward !== null) add("reward", String(sample.reward));
    for (const [name, value] of Object.entries(sample.parts)) add(name, value === null ? "–" : String(value));
    if (sample.score !== null && sample.score !== sample.reward) add("score", String(sample.score));
    if (sample.advantage === 0) add("advantage", "0"); else if (sample.advantage !== null) add("advantage", signed(sample.advantage), advantage(sample.advantage, largest));
    add("", `${sample.tokens} tokens`);
    if (sample.detail) figures.append(element("span", "long", sample.detail));
    return element("div", "sample", mark(sample), element("div", "", sample.text === null ? null : element("pre", "text", sample.text), figures));
  }

  function inside(group, wanted) {
    const shown = group.samples.filter((sample) => fits(sample, wanted));
    const largest = Math.max(...group.samples.map((s) => Math.abs(s.advantage ?? 0)));
    const box = element("div", "inside", element("pre", "text prompt", group.prompt), group.fault ? element("p", "note", group.fault) : null, ...shown.map((s) => sampleRow(s, largest)));
    if (group.kind === "training" && !group.fault && !hasGradient(group) && group.samples.some((s) => s.advantage === 0)) box.append(element("p", "note", "All advantages are 0: this group did not train the model."));
    if (group.samples.length < group.n) box.append(element("p", "note", `${group.samples.length} of ${group.n} samples are on this page.`));
    return box;
  }

  function row(group, wanted) {
    const strip = element("span", "strip", ...group.samples.map(mark));
    const tally = element("span", "tally", group.fault ? "not used" : `${group.right} of ${group.n} right`);
    const where = `${group.kind === "evaluation" ? "held out" : "training"}, ${group.step ? `step ${group.step.toLocaleString("en")}` : "base model"}`;
    const start = group.prompt.trim().split("\n").filter(Boolean).pop() || group.prompt_id;
    const made = element("details", "group", element("summary", "", element("span", "where", where), element("span", "start", start), strip, tally));
    const fill = () => { if (made.open && !made.querySelector(".inside")) made.append(inside(group, wanted)); };
    made.addEventListener("toggle", () => { made.open ? open.add(group.key) : open.delete(group.key); fill(); });
    made.open = open.has(group.key);
    return made;
  }

  function show() {
    const form = document.getElementById("filters");
    if (!form) return;
    const read = Object.fromEntries(new FormData(form)), query = (read.query || "").toLowerCase();
    const found = all.filter((group) =>
      (!read.kind || group.kind === read.kind) && (!read.step || String(group.step) === read.step) &&
      (read.which !== "mixed" || (group.right > 0 && group.right < group.n)) && (read.which !== "gradient" || hasGradient(group)) && group.samples.some((s) => fits(s, read.verdict)) | (!read.verdict && !group.samples.length) &&
      (!query || group.prompt.toLowerCase().includes(query) || group.prompt_id.toLowerCase().includes(query) || group.samples.some((s) => (s.text || "").toLowerCase().includes(query))));
    document.getElementById("list").replaceChildren(...found.slice(0, limit).map((group) => row(group, read.verdict)));
    document.getElementById("count").textContent = found.length === all.length ? `${all.length} groups` : `${found.length} of ${all.length} groups`;
    document.getElementById("more").hidden = found.length <= limit;
  }

  function start(list) {
    all = list;
    const form = document.getElementById("filters");
    if (!form) return;
    const steps = [...new Set(all.map((group) => group.step))].sort((a, b) => a - b);
    form.elements.step.append(...steps.map((step) => { const option = element("option", "", step ? step.toLocaleString("en") : "0 (base model)"); option.value = step; return option; }));
    form.addEventListener("input", () => { limit = PAGE; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("more").addEventListener("click", () => { limit += PAGE; show(); });
  }
  return { start, show };
})();
