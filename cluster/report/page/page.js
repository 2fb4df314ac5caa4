// Starts the page: unpacks data and plotly, then starts theme, axis, filters and the refresh of a live page.
"use strict";
(() => {
  const nonce = document.currentScript.nonce, root = document.documentElement;
  const THEMES = ["system", "light", "dark"], dark = matchMedia("(prefers-color-scheme: dark)");
  let data = null;

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  function remember(key, value) {
    try { if (value === undefined) return localStorage.getItem(key); localStorage.setItem(key, value); } catch { /* a file page may have no storage */ }
    return null;
  }
  const axis = () => document.querySelector("#axis input:checked")?.value || "step";
  async function draw() { root.dataset.charts = await charts.drawAll(data, axis()); }

  function setTheme(theme) {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    document.getElementById("theme").textContent = `Theme: ${theme}`;
  }
  function startTheme() {
    let theme = THEMES.includes(remember("bonrl-theme")) ? remember("bonrl-theme") : "system";
    setTheme(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      remember("bonrl-theme", theme);
      setTheme(theme);
      if (data) draw();
    });
    dark.addEventListener("change", () => data && draw());
  }

  function startKeys() {
    const form = document.getElementById("settings-filter"), keys = [...document.querySelectorAll("#keys .key")];
    const show = () => {
      const query = form.elements.query.value.toLowerCase(), changed = form.elements.changed.checked && !query;
      let shown = 0;
      for (const key of keys) {
        key.hidden = (changed && !key.classList.contains("changed")) || !key.textContent.toLowerCase().includes(query);
        shown += !key.hidden;
      }
      document.getElementById("keys-count").textContent = `${shown} of ${keys.length} keys`;
    };
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  function startSections(restore = []) {
    document.querySelectorAll("#axis input").forEach((input) => input.addEventListener("change", draw));
    groups.start(data.groups);
    restore.forEach((put) => put());
    startKeys();
    groups.show();
  }

  function startNavigation() {
    const links = new Map([...document.querySelectorAll(".bar nav a")].map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting) links.forEach((link, name) => name === entry.target.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    }), { rootMargin: "-20% 0px -70% 0px" });
    document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
  }

  // A live page asks for changes, and replaces its sections but not its charts, filters and open groups.
  function keep(section, html) {
    const values = [...section.querySelectorAll("input, select")].map((field) => [field.name, field.type, field.value, field.checked]);
    const plots = new Map([...section.querySelectorAll("figure.chart")].map((figure) => [figure.id, figure.querySelector(".plot")]));
    section.innerHTML = html;
    section.querySelectorAll("figure.chart").forEach((figure) => { const old = plots.get(figure.id); if (old) figure.querySelector(".plot").replaceWith(old); });
    return () => values.forEach(([name, type, value, checked]) => section.querySelectorAll(`[name="${name}"]`).forEach((field) => {
      if (type === "radio") { if (field.value === value) field.checked = checked; } else if (type === "checkbox") field.checked = checked; else field.value = value;
    }));
  }
  async function refresh() {
    const update = await (await ask("update")).json();
    data = update.data;
    const restore = Object.entries(update.sections).map(([name, html]) => keep(document.getElementById(name), html));
    startSections(restore);
    await draw();
    return update.version;
  }
  async function ask(path) {
    const answer = await fetch(path, { signal: AbortSignal.timeout(60000) });
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }
  async function follow(every) {
    const mark = document.getElementById("live");
    let seen = mark.dataset.version;
    for (;;) {
      await new Promise((done) => setTimeout(done, every));
      try {
        if (!document.hidden && await (await ask("version")).text() !== seen) seen = await refresh();
        mark.textContent = "live";
        mark.classList.remove("lost");
      } catch (error) {
        mark.textContent = "not connected";
        mark.title = String(error);
        mark.classList.add("lost");
      }
    }
  }

  async function start() {
    startTheme();
    startNavigation();
    data = JSON.parse(await unpack("data"));
    startSections();
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await unpack("plotly");
    document.head.append(script);
    await draw();
    root.dataset.ready = "true";
    if (document.getElementById("live")) follow(3000);
  }
  start().catch((error) => { root.dataset.failed = String(error); throw error; });
})();
