// The theme's search fields (select2) have no name for those who listen to a page: they get that of their label,
// whenever one appears.
"use strict";

function nameSearchFields() {
  for (const field of document.querySelectorAll("select.select2-hidden-accessible")) {
    const label = field.labels[0]?.textContent.replace("*", "").trim() || field.title || field.name;
    const parts = field.nextElementSibling?.querySelectorAll("[role=combobox], [role=textbox]") ?? [];
    for (const part of parts) {
      part.removeAttribute("aria-labelledby"); // it names the chosen value
      part.setAttribute("aria-label", label);
    }
  }
}

document.addEventListener("DOMContentLoaded", () => {
  nameSearchFields();
  new MutationObserver(nameSearchFields).observe(document.body, { childList: true, subtree: true });
});
