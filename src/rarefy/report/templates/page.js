"use strict";

// Tables whose column titles sort.
const keyOf = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
};

const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

const sort = (title) => {
  const body = title.closest("table").tBodies[0];
  const was = title.getAttribute("aria-sort");
  const first = title.dataset.sort === "number" ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = was === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const column = title.cellIndex;
  const rows = [...body.rows].sort((a, b) => sign * compare(keyOf(a, column), keyOf(b, column)));
  for (const other of title.parentElement.cells) other.setAttribute("aria-sort", "none");
  title.setAttribute("aria-sort", order);
  body.append(...rows);
};

for (const title of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...title.childNodes);
  button.addEventListener("click", () => sort(title));
  title.append(button);
}

// Code that can be copied; where the clipboard is closed the text is selected instead.
for (const block of document.querySelectorAll(".code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.append(button);
}

// A link into a closed part opens it; on paper everything is open.
const openTarget = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", openTarget);
if (location.hash) openTarget();

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
