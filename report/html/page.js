(function () {
  "use strict";
  var table = document.querySelector("table.findings");
  var tools = document.getElementById("tools");
  if (!table || !tools) return;

  var body = table.tBodies[0];
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  var order = new Intl.Collator("en", { numeric: true });
  var step = 200; // rows drawn at once: a table of thousands stays quick
  var shown = step;
  var column = -1, down = false;

  var rows = Array.prototype.map.call(body.rows, function (tr, i) {
    var cells = Array.prototype.map.call(tr.cells, function (td) { return td.textContent; });
    cells[3] = tr.cells[3].querySelector(".name").textContent + " " + tr.cells[3].querySelector(".kind").textContent;
    return { tr: tr, at: i, cells: cells, text: cells.join("\n").toLowerCase() };
  });
  var sorted = rows.slice();

  var field = {};
  ["text", "reason", "verdict", "namespace", "sort", "count", "more"].forEach(function (id) {
    field[id] = document.getElementById(id);
  });

  function is(select, value) {
    return select.value === "" || select.value === (value === "" ? "-" : value);
  }

  function draw() {
    var words = field.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    var hits = 0;
    sorted.forEach(function (row) {
      var hit = is(field.reason, row.cells[0]) && is(field.verdict, row.cells[1]) && is(field.namespace, row.cells[2]) &&
        words.every(function (word) { return row.text.indexOf(word) >= 0; });
      if (hit) hits++;
      row.tr.hidden = !hit || hits > shown;
      row.tr.classList.toggle("later", hit && hits > shown);
    });
    var left = Math.max(0, hits - shown);
    var number = new Intl.NumberFormat("en");
    field.count.textContent = number.format(hits) + " of " + number.format(rows.length) + (rows.length === 1 ? " finding" : " findings") +
      (left ? ", the first " + number.format(shown) + " shown" : "");
    field.more.hidden = left === 0;
    field.more.textContent = "Show " + number.format(Math.min(step, left)) + " more of " + number.format(left);
  }

  function sort(by, reverse) {
    column = by;
    down = reverse;
    sorted.sort(function (a, b) {
      var c = by < 0 ? 0 : order.compare(a.cells[by], b.cells[by]);
      return (reverse ? -c : c) || a.at - b.at;
    });
    var all = document.createDocumentFragment();
    sorted.forEach(function (row) { all.appendChild(row.tr); });
    body.appendChild(all);
    heads.forEach(function (th, i) {
      if (i === by) th.setAttribute("aria-sort", reverse ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    field.sort.value = by < 0 ? "" : String(by);
    draw();
  }

  heads.forEach(function (th, i) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    button.addEventListener("click", function () { sort(i, column === i && !down); });
    th.textContent = "";
    th.appendChild(button);
  });

  function filter() { shown = step; draw(); }
  field.text.addEventListener("input", filter);
  ["reason", "verdict", "namespace"].forEach(function (id) { field[id].addEventListener("change", filter); });
  field.sort.addEventListener("change", function () { sort(field.sort.value === "" ? -1 : Number(field.sort.value), false); });
  field.more.addEventListener("click", function () { shown += step; draw(); });
  tools.addEventListener("submit", function (event) { event.preventDefault(); });
  tools.addEventListener("reset", function () { setTimeout(function () { shown = step; sort(-1, false); }); });

  document.querySelectorAll(".reasons a[data-reason]").forEach(function (link) {
    link.addEventListener("click", function (event) {
      event.preventDefault();
      tools.reset();
      setTimeout(function () {
        field.reason.value = link.getAttribute("data-reason");
        filter();
        tools.scrollIntoView();
        field.reason.focus({ preventScroll: true });
      });
    });
  });

  // Paper opens nothing: what a person prints shows the evidence as well.
  addEventListener("beforeprint", function () {
    document.querySelectorAll("details:not([open])").forEach(function (d) { d.open = true; d.dataset.printed = ""; });
  });
  addEventListener("afterprint", function () {
    document.querySelectorAll("details[data-printed]").forEach(function (d) { d.open = false; delete d.dataset.printed; });
  });

  tools.hidden = false;
  draw();
}());
