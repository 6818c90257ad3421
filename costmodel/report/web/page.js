const keyOf = (row, at) => {
  const cell = row.cells[at];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
};
const compare = (first, second, sign) => {
  if (first === "" || second === "") return (first === "") - (second === "");
  if (typeof first === "number" && typeof second === "number") return sign * (first - second);
  if (typeof first !== typeof second) return typeof first === "number" ? -1 : 1;
  return sign * first.localeCompare(second, "en");
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = heading.closest("table").tBodies[0];
    const at = heading.cellIndex;
    const rows = Array.from(body.rows);
    rows.sort((one, two) => compare(keyOf(one, at), keyOf(two, at), descending ? -1 : 1));
    body.append(...rows);
  });
}

// Figures become ones of Plotly, whose script the page carries packed. Where that fails, the drawings stay.
const plots = [...document.querySelectorAll(".plot")];
const drawAll = () => Promise.all(plots.map((plot) => drawFigure(plot, JSON.parse(plot.dataset.figure))));
const offerAxes = (plot) => {
  for (const axis of ["yaxis", "xaxis"]) {
    if (!["linear", "log"].includes(plot._fullLayout[axis].type)) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${axis[0]} linear or logarithmic`;
    button.addEventListener("click", () => {
      const type = plot._fullLayout[axis].type === "log" ? "linear" : "log";
      Plotly.relayout(plot, { [`${axis}.type`]: type, [`${axis}.tickmode`]: "auto", [`${axis}.autorange`]: true });
    });
    plot.after(button);
  }
};
const unpack = async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("plotly").content.textContent), (one) => one.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  await new Promise((done, failed) => Object.assign(script, { onload: done, onerror: failed }) && document.head.append(script));
  script.remove();
  for (const plot of plots) {
    plot.hidden = false;
    plot.parentElement.querySelector(".drawing").hidden = true;
  }
  await drawAll();
  plots.forEach(offerAxes);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.body.dataset.drawn = plots.length;
};
if (plots.length && "DecompressionStream" in window) unpack();
