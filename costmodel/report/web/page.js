"use strict";
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
