// The form of a data source shows the fields that matter for its kind, and how an account that may only read is made.
"use strict";

(() => {
  const facts = document.getElementById("source-kinds");
  const kind = document.getElementById("id_kind");
  if (!facts || !kind) return;
  const kinds = JSON.parse(facts.textContent);
  const all = [...new Set(Object.values(kinds).flatMap((each) => each.fields))];
  const field = (name) => document.getElementById(`id_${name}`);

  function showFields(shown) {
    for (const name of all) {
      const input = field(name);
      const line = input?.closest(".field-line");
      if (!line) continue;
      line.hidden = !shown.includes(name);
      // What can't be seen is not sent: nobody could mend it. A choice always has a value that can be.
      if (input.tagName === "INPUT") input.disabled = line.hidden;
    }
    for (const row of document.querySelectorAll(".field-row")) {
      const lines = [...row.querySelectorAll(".field-line")];
      row.hidden = lines.length > 0 && lines.every((line) => line.hidden);
    }
  }

  function showWords(chosen) {
    const label = document.querySelector('label[for="id_database"]');
    const text = [...(label?.childNodes ?? [])].find((node) => node.nodeType === Node.TEXT_NODE && node.nodeValue.trim());
    if (text) text.nodeValue = chosen.label;
    const help = document.querySelector('[data-kind-help="database"]');
    if (help) help.textContent = chosen.help;
    field("port").placeholder = chosen.port;
  }

  // A value between quotes of its own sort: the quote is doubled, and MySQL's strings also know the backslash.
  function filled(sql, values) {
    return sql.replace(/(['"`])\{(\w+)\}\1/g, (_whole, quote, name) => {
      const text = quote === "'" ? values[name].replaceAll("\\", "\\\\") : values[name];
      return quote + text.replaceAll(quote, quote + quote) + quote;
    });
  }

  function showAccount() {
    const values = { user: field("username").value || "reporter", database: field("database").value || "shop" };
    let any = false;
    for (const account of document.querySelectorAll("[data-account]")) {
      account.hidden = account.dataset.account !== kind.value;
      any ||= !account.hidden;
      const code = account.querySelector("[data-sql]");
      code.textContent = filled(code.dataset.sql, values);
    }
    const fold = document.querySelector("[data-accounts]");
    if (fold) fold.hidden = !any;
  }

  function change() {
    const chosen = kinds[kind.value];
    showFields(chosen ? chosen.fields : all);
    if (chosen) showWords(chosen);
    showAccount();
  }

  kind.addEventListener("change", change);
  for (const name of ["username", "database"]) field(name).addEventListener("input", showAccount);
  change();
})();
