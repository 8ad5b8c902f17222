// Search, filters and order of the table of papers. What is chosen stays in the address, after the #, so that a link or
// the way back leads to the same view; nothing is sent anywhere.
"use strict";

const form = document.querySelector("form");
const none = document.querySelector(".none");
const body = document.querySelector("tbody");
const rows = [...body.rows];
const texts = new Map(rows.map((row) => [row, `${row.textContent} ${row.dataset.text}`.toLowerCase()]));
const orders = {
  title: (a, b) => a.dataset.title.localeCompare(b.dataset.title),
  newest: (a, b) => b.dataset.year - a.dataset.year,
  oldest: (a, b) => a.dataset.year - b.dataset.year,
  family: (a, b) => a.dataset.family.localeCompare(b.dataset.family),
};

function show() {
  const chosen = Object.fromEntries(new FormData(form));
  const words = chosen.q.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    const fits =
      words.every((word) => texts.get(row).includes(word)) &&
      ["family", "status", "verdict"].every((name) => !chosen[name] || row.dataset[name] === chosen[name]);
    row.hidden = !fits;
    shown += fits;
  }
  body.append(...(orders[chosen.order] ? rows.toSorted(orders[chosen.order]) : rows));
  form.querySelector("output").value = shown === rows.length ? `${shown} papers` : `${shown} of ${rows.length} papers`;
  none.hidden = shown > 0;
  body.parentElement.hidden = shown === 0;
  return chosen;
}

function remember() {
  const set = Object.entries(show()).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(set)}`);
}

function recall() {
  const set = new URLSearchParams(location.hash.slice(1));
  for (const field of form.querySelectorAll("[name]")) field.value = set.get(field.name) ?? "";
  for (const field of form.querySelectorAll("select")) if (field.selectedIndex < 0) field.value = "";
  show();
}

form.addEventListener("input", remember);
form.addEventListener("reset", () => setTimeout(remember)); // the fields are emptied after the event
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", recall);
form.hidden = false;
recall();
