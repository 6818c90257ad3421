const form = document.getElementById("controls");
const answer = document.getElementById("answer");
const busy = document.getElementById("busy");
const dark = matchMedia("(prefers-color-scheme: dark)");
const panels = [...document.querySelectorAll(".scenario")];
const tabs = [...document.querySelectorAll("[role=tab]")];
let figures = {};
let asking = false;
let again = false;

const shown = () => panels.find((panel) => !panel.hidden);

const query = () => {
  const pairs = [...new FormData(form)].filter(([name, value]) => value !== "" || /(^|\.)(of|on|run)$/.test(name));
  const anchored = new Set(pairs.filter(([name]) => name.endsWith("anchor.value")).map(([name]) => name.split("anchor")[0]));
  return new URLSearchParams(
    pairs.filter(([name]) => !/anchor\.(metric|at)$/.test(name) || anchored.has(name.split("anchor")[0])),
  );
};

// Controls of other phases are out of sight and are not sent.
const showPhase = (panel, phase) => {
  panel.dataset.phase = phase;
  for (const one of panel.querySelectorAll("[data-phases]")) {
    const phases = one.dataset.phases.split(" ").filter(Boolean);
    one.hidden = phases.length > 0 && !phases.includes(phase);
    for (const input of one.querySelectorAll("input, select")) input.disabled = one.hidden;
  }
  const metric = panel.querySelector("select[name$='anchor.metric']");
  const own = [...metric.options].filter((option) => option.dataset.phase === phase);
  for (const option of metric.options) option.hidden = option.disabled = !own.includes(option);
  if (!own.includes(metric.selectedOptions[0]) && own.length) metric.value = own[0].value, own[0].selected = true;
};

const showControls = (panel, controls) => {
  showPhase(panel, controls.phase);
  const runs = Object.keys(controls.runs);
  const run = panel.querySelector("select[name$='run']");
  const offered = runs.length ? runs : PHASES;
  if (offered.join() !== [...run.options].map((option) => option.value).join()) {
    const chosen = run.value;
    run.replaceChildren(...offered.map((name) => new Option(name, name, false, name === chosen)));
    if (run.value !== chosen) again = true;
  }
  for (const control of panel.querySelectorAll("[data-path]:not([hidden])")) {
    const usual = controls.usual[control.dataset.path] ?? "";
    const input = control.querySelector("input, select");
    if (input.tagName === "INPUT") input.placeholder = usual;
    else input.options[0].text = usual && input.value === "" ? `${usual} (as chosen)` : "as chosen";
  }
  for (const note of panel.querySelectorAll("[data-wrong]")) {
    const message = controls.wrong[note.dataset.wrong] ?? "";
    if (note.textContent !== message) note.textContent = message;
    const input = document.querySelector(`[aria-describedby="${note.id}"]`);
    if (input) input.setAttribute("aria-invalid", message ? "true" : "false");
  }
};
const PHASES = ["decode", "prefill", "generate", "serving", "training", "diffusion"];

const draw = () => {
  for (const plot of document.querySelectorAll(".plot")) {
    const figure = figures[plot.id.replace("plot-", "")];
    plot.closest("figure").hidden = !figure;
    if (figure) drawFigure(plot, figure);
  }
};

const ask = async () => {
  if (asking) return void (again = true);
  asking = true;
  busy.textContent = "computing …";
  const asked = query();
  try {
    const reply = await fetch(`/answer?${asked}`, { headers: { Accept: "application/json" } });
    const content = await reply.json();
    if (!reply.ok) throw new Error(content.error);
    const open = [...answer.querySelectorAll("details")].map((each) => each.open);
    answer.innerHTML = content.html;
    [...answer.querySelectorAll("details")].forEach((each, at) => { if (at in open) each.open = open[at]; });
    for (const panel of panels) showControls(panel, content.controls[panel.dataset.prefix]);
    figures = content.figures;
    draw();
    history.replaceState(null, "", `/?${content.query}`);
    document.body.dataset.answered = asked;
    busy.textContent = "";
  } catch (error) {
    busy.textContent = `No answer: ${error.message}`;
  }
  asking = false;
  if (again) {
    again = false;
    ask();
  }
};

let typing;
form.addEventListener("input", (event) => {
  if (!event.target.name || form.matches(".plan")) return;
  clearTimeout(typing);
  if (/(^|\.)run$/.test(event.target.name)) {
    const panel = event.target.closest(".scenario");
    if (PHASES.includes(event.target.value)) showPhase(panel, event.target.value);
  }
  if (/(^|\.)of$/.test(event.target.name)) {
    const on = form.elements[event.target.name.replace(/of$/, "on")];
    const isModel = event.target.selectedOptions[0].parentElement.label === "Models";
    if (isModel && on.value === "") on.value = "nodes/dgx-h100";
    if (!isModel) on.value = "";
  }
  typing = setTimeout(ask, event.target.matches("select, [type=checkbox]") ? 0 : 250);
});
form.addEventListener("submit", (event) => {
  if (event.submitter || form.matches(".plan")) return;
  event.preventDefault();
  ask();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.tagName === "INPUT" && !form.matches(".plan")) {
    event.preventDefault();
    clearTimeout(typing);
    ask();
  }
});

for (const tab of tabs) {
  const choose = (other) => {
    for (const each of tabs) {
      const chosen = each === other;
      each.setAttribute("aria-selected", chosen);
      each.tabIndex = chosen ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
    }
    other.focus();
  };
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) choose(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length]);
  });
}

form.addEventListener("click", (event) => {
  if (!event.target.matches("[data-at]")) return;
  const panel = event.target.closest(".scenario");
  const settings = [...panel.querySelectorAll("[data-path]:not([hidden]) :is(input, select)")]
    .map((input) => [input.closest("[data-path]").dataset.path, input.value]).filter(([, value]) => value !== "");
  const at = panel.querySelector("textarea[name$='anchor.at']");
  at.value = settings.map(([path, value]) => `${path}=${value}`).join("\n");
  ask();
});

const runs = document.getElementById("runs");
const post = (address, method, body) =>
  fetch(address, { method, body, headers: { Accept: "application/json" } }).then(async (reply) => {
    const content = await reply.json();
    if (!reply.ok) throw Object.assign(new Error(content.error), { field: content.field });
    return content;
  });

const follow = async (box, key) => {
  const [bar, cancel, result] = box.querySelectorAll("progress, button, div");
  cancel.addEventListener("click", () => { post(`/runs/${key}`, "DELETE").catch(() => {}); box.remove(); });
  while (box.isConnected) {
    const state = await post(`/runs/${key}`, "GET");
    bar.value = state.share;
    if (state.done) {
      bar.remove();
      cancel.textContent = "Close";
      result.innerHTML = state.html;
      Object.assign(figures, state.figures);
      draw();
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
};

const begin = async (asked) => {
  const box = document.createElement("section");
  box.className = "run";
  box.innerHTML = '<h3></h3><progress max="1" value="0"></progress> <button type="button">Cancel</button><div></div>';
  box.querySelector("progress").setAttribute("aria-label", "Progress");
  runs.prepend(box);
  try {
    const run = await post(`/runs?${asked}`, "POST");
    box.querySelector("h3").textContent = run.title;
    box.scrollIntoView({ block: "nearest" });
    await follow(box, run.key);
  } catch (error) {
    const note = document.querySelector(`[data-wrong="${error.field}"]`);
    if (note) {
      note.textContent = error.message;
      box.remove();
    } else {
      box.querySelector("div").textContent = error.message;
      box.querySelector("progress")?.remove();
    }
  }
};

document.addEventListener("click", (event) => {
  const name = event.target.dataset?.run;
  if (name) begin(`of_scenario=${shown().id.replace("scenario-", "")}&kind=${name}&${query()}`);
});

const plan = () => {
  for (const note of form.querySelectorAll("[data-wrong]")) note.textContent = "";
  for (const other of runs.querySelectorAll("button")) other.click();
  const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  history.replaceState(null, "", `/plan?${asked}`);
  return begin(`kind=plan&${asked}`);
};

document.getElementById("upload")?.addEventListener("change", async (event) => {
  const said = document.getElementById("uploaded");
  const [file] = event.target.files;
  if (!file) return;
  try {
    if (file.size > 262144) throw new Error("it is larger than 256 KiB");
    const content = await post("/models", "POST", file);
    const of = shown().querySelector("select[name$='of']");
    of.firstElementChild.append(new Option(content.name, content.name, false, true));
    of.value = content.name;
    said.textContent = [`${content.name} is chosen above.`, ...content.notes].join(" ");
    of.dispatchEvent(new Event("input", { bubbles: true }));
  } catch (error) {
    said.textContent = error.message;
  }
});

dark.addEventListener("change", draw);
if (form.matches(".plan")) {
  form.addEventListener("submit", (event) => { event.preventDefault(); plan(); });
  if (location.search) plan();
} else {
  for (const panel of panels) showPhase(panel, panel.dataset.phase);
  ask();
}
