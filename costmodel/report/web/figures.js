"use strict";
const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const drawFigure = (plot, figure) => {
  const [text, line] = [colour("--text"), colour("--line")];
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const narrow = innerWidth < 640;
  return Plotly.react(plot, figure.data, {
    ...figure.layout, autosize: true, dragmode: narrow ? false : "zoom", hovermode: "closest",
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: text },
    xaxis: { ...axis, ...figure.layout.xaxis }, yaxis: { ...axis, ...figure.layout.yaxis },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: text },
    margin: { l: 48, r: narrow ? 36 : 56, t: 8, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  }, { responsive: true, displaylogo: false, displayModeBar: !narrow, modeBarButtons: [["toImage", "resetScale2d"]] });
};
