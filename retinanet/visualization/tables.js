// Sorts tables of class "sortable" by the column whose header is pressed; cells may give a number in data-value.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const number = Number(cell.dataset.value);
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number.isNaN(number) ? -Infinity : number;
  };
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const isText = typeof valueOf(rows[0], column) === "string";
      const sorted = header.getAttribute("aria-sort");
      const ascending = sorted ? sorted === "descending" : isText;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const compare = isText
        ? (a, b) => valueOf(a, column).localeCompare(valueOf(b, column))
        : (a, b) => valueOf(a, column) - valueOf(b, column);
      rows.sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
      body.append(...rows);
    });
  });
}
