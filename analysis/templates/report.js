"use strict";
// Unpacks plotly and the data, builds the switches, and redraws when one of them changes.
(async () => {
  const byId = (id) => document.getElementById(id);
  const said = byId("said");

  async function unpack(id) {
    const packed = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // Plotly reads a little HTML in names; as entities they are only text.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function box(place, name, value, colour) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.defaultChecked = true;
    input.name = name;
    input.value = value;
    label.append(input, " ");
    if (colour) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour;
      label.append(swatch, " ");
    }
    label.append(name === "staleness" ? `s = ${value}` : value);
    byId(place).append(label);
  }

  const chosen = (name) =>
    new Set([...document.querySelectorAll(`input[name=${name}]:checked`)].map((input) => input.value));

  function mean(curves) {
    const sums = new Map();
    for (const [x, y] of curves) {
      x.forEach((u, i) => sums.set(u, [(sums.get(u)?.[0] ?? 0) + y[i], (sums.get(u)?.[1] ?? 0) + 1]));
    }
    const whole = [...sums].filter(([, [, n]]) => n === curves.length).sort((a, b) => a[0] - b[0]);
    return [whole.map(([u]) => u), whole.map(([, [sum, n]]) => sum / n)];
  }

  function traces(data, quantity) {
    const algorithms = chosen("algorithm"), staleness = chosen("staleness");
    const settings = byId("settings").checked;
    const shown = data.runs.filter((run) => algorithms.has(run.algorithm) && quantity.runs[run.run]
      && staleness.has(String(run.staleness)) && (settings || run.reference));
    const groups = new Map();
    for (const run of shown) {
      const name = `${run.algorithm}, s = ${run.staleness}${run.setting ? ` (${run.setting})` : ""}`;
      groups.set(name, [...(groups.get(name) ?? []), run]);
    }
    const result = [];
    for (const [name, runs] of groups) {
      const line = { color: runs[0].colour, dash: runs[0].dash };
      const means = byId("means").checked && runs.length > 1;
      if (byId("seeds").checked || !means) {
        runs.forEach((run, i) => result.push({
          x: quantity.runs[run.run][0], y: quantity.runs[run.run][1], mode: "lines", legendgroup: plain(name),
          name: plain(name), showlegend: !means && i === 0, opacity: means ? 0.35 : 0.9,
          line: { ...line, width: 1 }, hovertemplate: `${plain(run.run)}<br>%{x}: %{y:.4g}<extra></extra>`,
        }));
      }
      if (means) {
        const [x, y] = mean(runs.map((run) => quantity.runs[run.run]));
        result.push({
          x, y, mode: "lines", name: plain(name), legendgroup: plain(name), line: { ...line, width: 2.5 },
          hovertemplate: `${plain(name)}, mean of ${runs.length}<br>%{x}: %{y:.4g}<extra></extra>`,
        });
      }
    }
    said.textContent = `${shown.length} runs in ${groups.size} series are drawn.`;
    return result;
  }

  try {
    const library = document.createElement("script");
    library.textContent = await unpack("library");
    document.head.append(library);
    const data = JSON.parse(await unpack("data"));
    for (const [key, { label }] of Object.entries(data.quantities)) byId("quantity").append(new Option(label, key));
    const colours = Object.fromEntries(data.runs.map((run) => [run.algorithm, run.colour]));
    for (const name of data.algorithms) box("algorithms", "algorithm", name, colours[name]);
    const values = [...new Set(data.runs.map((run) => run.staleness))].sort((a, b) => a - b);
    for (const value of values) box("staleness", "staleness", String(value));
    byId("controls").hidden = false;

    const draw = () => {
      const quantity = data.quantities[byId("quantity").value];
      if (!quantity) return;
      Plotly.react("plot", traces(data, quantity), {
        margin: { l: 60, r: 20, t: 20, b: 50 }, hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
        font: { color: "#1c1c1c", family: "system-ui, sans-serif" }, uirevision: byId("quantity").value,
        xaxis: { title: { text: "updates" }, gridcolor: "#e4e4e4", zeroline: false },
        yaxis: { title: { text: quantity.label }, type: quantity.log ? "log" : "linear", gridcolor: "#e4e4e4",
          zeroline: false, exponentformat: "power" },
        legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    };
    byId("controls").addEventListener("change", draw);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    draw();
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    said.textContent = `The interactive curves cannot be shown here (${error.message}); the figures below can.`;
    document.documentElement.dataset.ready = "no";
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
