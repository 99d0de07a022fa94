// The ledger: the paper's claims, searchable; those that are plain arithmetic are computed here.

/** The value of a formula of numbers, + - x / and brackets; NaN if it is anything else. */
function evaluate(text) {
  const parts = text.replaceAll(",", "").match(/\d+(?:\.\d+)?|[-+x/()]|\S/g) ?? [];
  let at = 0;
  const atom = () => {
    if (parts[at] !== "(") return /^\d/.test(parts[at] ?? "") ? Number(parts[at++]) : NaN;
    at++;
    const value = sum();
    return parts[at++] === ")" ? value : NaN;
  };
  const chain = (next, ways) => {
    let value = next();
    while (parts[at] in ways) value = ways[parts[at++]](value, next());
    return value;
  };
  const product = () => chain(atom, { x: (a, b) => a * b, "/": (a, b) => a / b });
  const sum = () => chain(product, { "+": (a, b) => a + b, "-": (a, b) => a - b });
  const value = sum();
  return at === parts.length ? value : NaN;
}

/** What a claim's evidence comes to, computed here; NaN where it is not plain arithmetic. */
function recompute({ evidence }) {
  const formula = evidence.split("; claimed")[0].replace(/ = [^=]*$/, "");
  const right = formula.match(/^(\d[\d,]*) right of (\d[\d,]*)$/);
  if (right) return evaluate(`100 x ${right[1]} / ${right[2]}`);
  const mean = formula.match(/^mean of ([\d.%, ]+)$/);
  if (mean) {
    const terms = mean[1].replaceAll("%", "").split(", ");
    return evaluate(`(${terms.join(" + ")}) / ${terms.length}`);
  }
  return evaluate(formula.replace(/ \([^()\d][^()]*\)$/, "")); // less the name of what is subtracted
}

function startLedger(claims) {
  const byId = (id) => document.getElementById(id);
  const [search, status, body, count, more] = ["search", "status", "body", "count", "more"].map((id) => byId(`ledger-${id}`));
  const cell = (tag, text, attributes = {}) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(text);
    return element;
  };
  const number = (value) => (value === null ? "—" : Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 }));
  const here = claims.map(recompute);
  const same = (i) => Math.abs(here[i] - claims[i].found) <= Math.max(0.006, 1e-4 * Math.abs(claims[i].found));
  const arithmetic = claims.map((claim, i) => claim.found !== null && !Number.isNaN(here[i]) && same(i));
  byId("ledger").dataset.recomputed = arithmetic.filter(Boolean).length;
  let shown = 20;
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = claims.map((claim, i) => [claim, i]).filter(([claim]) => {
      const text = `${claim.statement} ${claim.evidence} ${claim.kind} ${claim.status}`.toLowerCase();
      return (!status.value || claim.status === status.value) && words.every((word) => text.includes(word));
    });
    const left = found.length - shown;
    count.textContent = `${found.length} of ${claims.length} claims; ${found.filter(([, i]) => arithmetic[i]).length} of them are computed again by this page.`;
    body.replaceChildren(...found.slice(0, shown).map(([claim, i]) => {
      const row = document.createElement("tr");
      const how = cell("details", cell("summary", "how"));
      how.append(claim.evidence);
      row.append(
        cell("th", claim.statement, { scope: "row" }), cell("td", `${number(claim.value)} ${claim.unit}`), cell("td", number(claim.found)),
        cell("td", arithmetic[i] ? number(here[i]) : ""), cell("td", claim.status, { className: `status ${claim.status.replace(" ", "-")}` }), cell("td", how),
      );
      return row;
    }));
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(left, 100)} more`;
  };
  const again = () => { shown = 20; draw(); };
  search.addEventListener("input", again);
  status.addEventListener("input", again);
  more.addEventListener("click", () => { shown += 100; draw(); });
  status.append(...[...new Set(claims.map((claim) => claim.status))].map((name) => new Option(name, name)));
  draw();
}
