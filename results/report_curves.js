// Draws the panels in the page's own colours; a checkbox shows or hides a method in all of them.
const panels = JSON.parse(document.getElementById("panels").textContent);
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colors = () => ({
  "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font.color": color("--text"),
  "xaxis.gridcolor": color("--line"), "yaxis.gridcolor": color("--line"),
  "xaxis.zerolinecolor": color("--line"), "yaxis.zerolinecolor": color("--line"),
  "shapes": undefined,
});
const resets = panel => panel.resets.map(x => ({
  type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: {color: color("--text"), dash: "dash", width: 2},
}));

panels.forEach((panel, i) => {
  const traces = panel.lines.flatMap(line => {
    const base = {x: line.x, legendgroup: line.method, meta: line.method, mode: "lines", line: {color: line.color, width: 2}};
    const edge = {...base, line: {width: 0}, hoverinfo: "skip"};
    const band = line.upper.some(y => y !== null)
      ? [{...edge, y: line.upper}, {...edge, y: line.lower, fill: "tonexty", fillcolor: line.color + "33"}] : [];
    const dash = line.published ? "dot" : "solid";
    return [...band, {...base, y: line.mean, name: line.label, line: {...base.line, dash},
                      hovertemplate: "%{y:.4s}<extra>" + line.label + "</extra>"}];
  });
  const layout = {
    title: {text: panel.title, font: {size: 15}}, showlegend: false, hovermode: "x", shapes: resets(panel),
    margin: {l: 50, r: 10, t: 40, b: 40}, xaxis: {title: {text: panel.x}, rangemode: "tozero"},
    yaxis: {title: {text: panel.y}},
  };
  Plotly.newPlot("panel" + i, traces, layout, {responsive: true, displayModeBar: false});
});

const paint = () => panels.forEach((panel, i) =>
  Plotly.relayout("panel" + i, {...colors(), shapes: resets(panel)}));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();

document.querySelectorAll(".methods input").forEach(box => box.addEventListener("change", () =>
  panels.forEach((_, i) => {
    const plot = document.getElementById("panel" + i);
    const mine = plot.data.map((trace, n) => trace.meta === box.value ? n : -1).filter(n => n >= 0);
    if (mine.length) Plotly.restyle(plot, {visible: box.checked}, mine);
  })));
