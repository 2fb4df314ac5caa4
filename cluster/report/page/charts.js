// Draws the charts of a page from its data, in the colors of the current theme.
"use strict";
const charts = (() => {
  const AXES = { step: "optimizer steps", time: "minutes", samples: "samples" };
  const DASHES = ["solid", "dash", "dot"];
  const WHICH = { base: ["--base", "dot", "square", "base model"], best: ["--two", "dash", "diamond", "best"], last: ["--one", "solid", "circle", "last"] };
  const still = matchMedia("(pointer: coarse)").matches; // a drag on a touch screen scrolls the page

  function color(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }
  const clear = (rgb, alpha) => rgb.replace(/^rgba?\(([^)]+)\)$/, (_, inside) => `rgba(${inside.split(",").slice(0, 3).join(",")},${alpha})`);

  function band(x, low, high, rgb, alpha = 0.18) {
    // A gap in the interval is a gap in the band.
    const runs = [];
    let run = null;
    x.forEach((at, i) => {
      if (low[i] === null || high[i] === null) { run = null; return; }
      if (!run) runs.push(run = { x: [], low: [], high: [] });
      run.x.push(at); run.low.push(low[i]); run.high.push(high[i]);
    });
    return runs.map((r) => ({
      x: [...r.x, ...r.x.slice().reverse()], y: [...r.high, ...r.low.slice().reverse()],
      fill: "toself", fillcolor: clear(rgb, alpha), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
    }));
  }

  function traces(line, x, rgb, dash) {
    const y = line.y;
    if (line.axis === "evaluation") {
      const known = line.low && line.low.some((v) => v !== null);
      return [{
        x, y, mode: "lines+markers", name: line.name, line: { color: rgb, width: 2 }, marker: { color: rgb, size: 9 },
        error_y: known ? { type: "data", symmetric: false, array: y.map((v, i) => line.high[i] - v), arrayminus: y.map((v, i) => v - line.low[i]), color: rgb, thickness: 1.5, width: 4 } : undefined,
      }];
    }
    if (!line.mean) return [{ x, y, mode: "lines+markers", name: line.name, line: { color: rgb, width: 2, dash }, marker: { color: rgb, size: 5 } }];
    return [
      ...band(x, line.low, line.high, rgb),
      { x, y, mode: "markers", marker: { color: clear(rgb, 0.28), size: 3.5 }, hoverinfo: "skip", name: line.name },
      { x, y: line.mean, mode: "lines", name: line.name, line: { color: rgb, width: 2, dash } },
    ];
  }

  function layout(x, y) {
    const ink = color("--muted"), grid = color("--grid");
    const axis = { gridcolor: grid, zeroline: false, linecolor: color("--line"), tickcolor: grid, automargin: true, fixedrange: still };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "x unified", dragmode: still ? false : "zoom",
      margin: { l: 46, r: 10, t: 8, b: 36 }, font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: ink },
      hoverlabel: { bgcolor: color("--paper"), bordercolor: color("--line"), font: { color: color("--ink"), size: 11 } },
      xaxis: { ...axis, title: { text: x, standoff: 6 } }, yaxis: { ...axis, title: { text: y, standoff: 4 } },
    };
  }

  function legend(figure, items) {
    const place = figure.querySelector(".legend");
    place.replaceChildren(...items.map(([name, rgb, dash]) => {
      const item = document.createElement("span");
      const svg = document.createElementNS("http" + "://www.w3.org/2000/svg", "svg");
      svg.setAttribute("width", 22); svg.setAttribute("height", 8);
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("d", "M0 4H22"); path.style.stroke = rgb; path.style.strokeWidth = "2.5px";
      path.style.strokeDasharray = { solid: "none", dash: "6 3", dot: "2 3" }[dash];
      svg.append(path); item.append(svg, name);
      return item;
    }));
  }

  function table(figure, heads, rows) {
    const details = figure.querySelector(".numbers");
    const fill = () => {
      const make = (tag, text) => { const cell = document.createElement(tag); cell.textContent = text ?? "–"; return cell; };
      const whole = document.createElement("table"), head = document.createElement("tr");
      head.append(...heads.map((text) => make("th", text)));
      whole.append(head, ...rows().map((row) => { const tr = document.createElement("tr"); tr.append(...row.map((v) => make("td", v))); return tr; }));
      details.querySelector(".scroll").replaceChildren(whole);
    };
    details.ontoggle = () => details.open && fill();
    if (details.open) fill();
  }

  function draw(place, data, layout_) {
    return Plotly.react(place, data, layout_, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  }

  function overSteps(chart, data, axis) {
    const figure = document.getElementById(`chart-${chart.id}`);
    if (!figure) return null;
    const held = chart.lines.some((line) => line.axis === "evaluation");
    const names = held && chart.lines.length > 1 ? ["--base", "--one"] : ["--one", "--two", "--three"];
    const items = chart.lines.map((line, i) => [line, color(names[i % names.length]), DASHES[held ? 0 : i % 3]]);
    const all = items.flatMap(([line, rgb, dash]) => traces(line, data.axes[line.axis][axis], rgb, dash));
    const shape = layout(AXES[axis], chart.unit);
    if (axis === "step" && Math.max(...data.axes.train.step) < 8) shape.xaxis.dtick = 1;
    if (chart.logarithmic) Object.assign(shape.yaxis, { type: "log", exponentformat: "power", dtick: 1 });
    else if (chart.from_zero) shape.yaxis.rangemode = "tozero";
    const values = chart.lines.flatMap((line) => [...(line.mean || line.y), ...line.y]).filter((v) => v !== null);
    const low = Math.min(...values), high = Math.max(...values);
    const limits = chart.limits || [];
    // A limit far above all values would flatten the lines: it is then only named.
    const near = limits.filter((l) => l.value !== null && (chart.logarithmic ? true : l.value <= Math.max(high * 3, high + 1) && l.value >= low / 3));
    shape.shapes = near.map((l) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: l.value, y1: l.value, line: { color: color("--muted"), width: 1, dash: "dot" } }));
    shape.annotations = near.map((l) => ({ xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", y: chart.logarithmic ? Math.log10(l.value) : l.value, text: l.name, showarrow: false, font: { size: 10, color: color("--muted") } }));
    if (near.length && !chart.logarithmic) shape.yaxis.range = [chart.from_zero ? 0 : Math.min(low, ...near.map((l) => l.value)) * 0.95, Math.max(high, ...near.map((l) => l.value)) * 1.12];
    if (chart.share && high > 0.5) shape.yaxis.range = [0, 1.02];
    shape.yaxis.exponentformat = "power";
    legend(figure, items.length > 1 ? items.map(([line, rgb, dash]) => [line.name, rgb, dash]) : []);
    table(figure, [AXES[axis], ...chart.lines.flatMap((line) => [line.name, ...(line.low ? ["low", "high"] : [])])].slice(0, 12), () => {
      const first = chart.lines.find((line) => line.axis !== "evaluation") || chart.lines[0];
      const shown = chart.lines.filter((line) => line.axis === first.axis);
      return data.axes[first.axis][axis].map((x, i) => [x, ...shown.flatMap((line) => [line.y[i], ...(line.low ? [line.low[i], line.high[i]] : [])])]);
    });
    return draw(figure.querySelector(".plot"), all, shape);
  }

  function overK(chart, trained) {
    const figure = document.getElementById(`curve-${chart.strategy}`);
    if (!figure) return null;
    const ks = [...new Set(chart.lines.flatMap((line) => line.k))].sort((a, b) => a - b);
    const all = [], items = [];
    for (const line of chart.lines) {
      const [variable, dash, symbol, title] = WHICH[line.which], rgb = color(variable);
      const name = line.which === "base" ? title : `${title}, step ${line.step.toLocaleString("en")}`;
      items.push([name, rgb, dash]);
      all.push(...band(line.k, line.low, line.high, rgb, chart.lines.length > 2 ? 0.1 : 0.16), { x: line.k, y: line.value, mode: "lines+markers", name, line: { color: rgb, width: 2, dash }, marker: { color: rgb, size: 7, symbol } });
    }
    const shape = layout("k: answers drawn per prompt", `${chart.title}`);
    Object.assign(shape.xaxis, { type: "log", tickmode: "array", tickvals: ks, ticktext: ks.map(String) });
    if (ks.includes(trained)) shape.shapes = [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: trained, x1: trained, line: { color: color("--muted"), width: 1, dash: "dot" } }];
    legend(figure, items);
    table(figure, ["k", ...items.flatMap(([name]) => [name, "low", "high"])], () => ks.map((k) => [k, ...chart.lines.flatMap((line) => { const i = line.k.indexOf(k); return [line.value[i], line.low[i], line.high[i]]; })]));
    return draw(figure.querySelector(".plot"), all, shape);
  }

  async function drawAll(data, axis) {
    const drawn = [];
    for (const chart of data.learning) drawn.push(await overSteps(chart, data, axis));
    for (const chart of data.curves) drawn.push(await overK(chart, data.trained_k));
    for (const chart of data.running) drawn.push(await overSteps(chart, data, axis));
    return drawn.filter(Boolean).length;
  }
  return { drawAll };
})();
