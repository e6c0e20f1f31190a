// The dashboard, filled anew while it is open: each part of the answer takes the place of the one with its id.
"use strict";

(() => {
  const dashboard = document.getElementById("dashboard");
  if (!dashboard) return;
  const WHOLE_EVERY = 60000; // what changes slowly, in milliseconds
  const WHOLE_AFTER_END = 10000; // or sooner, when a run has ended
  const GIVE_UP_AFTER = 10000; // an answer that does not come
  const RETRY = 5000;

  let timer = 0;
  let asking = null;
  let lastWhole = Date.now();
  let endedThen = verdict().dataset.ended;

  function verdict() {
    return document.getElementById("dash-verdict");
  }

  function show(id, shown) {
    document.getElementById(id).hidden = !shown;
    dashboard.classList.toggle("exporter-old", Boolean(dashboard.querySelector(".exporter-stale:not([hidden])")));
  }

  function later(milliseconds) {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, milliseconds);
  }

  async function refresh() {
    clearTimeout(timer);
    if (asking) return;
    const age = Date.now() - lastWhole;
    const hasEnded = verdict().dataset.ended !== endedThen;
    const whole = age > WHOLE_EVERY || (hasEnded && age > WHOLE_AFTER_END);
    asking = new AbortController();
    const giveUp = setTimeout(() => asking.abort(), GIVE_UP_AFTER);
    try {
      const answer = await fetch(dashboard.dataset.url + (whole ? "?all" : ""), {
        redirect: "manual", // to the login: there are no figures any more
        credentials: "same-origin",
        signal: asking.signal,
      });
      if (answer.type === "opaqueredirect" || answer.status === 403) {
        show("dash-stale-lost", false);
        show("dash-stale-login", true);
        return;
      }
      if (!answer.ok) throw new Error(answer.statusText);
      fill(await answer.text());
      if (whole) {
        lastWhole = Date.now();
        endedThen = verdict().dataset.ended;
      }
      show("dash-stale-lost", false);
      later(Number(verdict().dataset.wait));
    } catch {
      show("dash-stale-lost", true);
      later(RETRY);
    } finally {
      clearTimeout(giveUp);
      asking = null;
    }
  }

  function fill(html) {
    const answer = new DOMParser().parseFromString(html, "text/html");
    for (const part of answer.body.children) {
      const old = document.getElementById(part.id);
      if (old) change(old, part);
    }
  }

  // Make `old` like `fresh`, and leave what is the same in its place: focus, selection and animations stay.
  function change(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    // Rows are known by their id: when the first run ends, the second must not turn into it.
    const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
    for (const child of [...old.children]) {
      if (!child.id || wanted.has(child.id)) continue;
      if (child.nextSibling?.nodeType === Node.TEXT_NODE) child.nextSibling.remove();
      child.remove();
    }
    const after = [...fresh.childNodes];
    after.forEach((child, place) => {
      const there = old.childNodes[place];
      if (there) change(there, child);
      else old.append(child);
    });
    while (old.childNodes.length > after.length) old.lastChild.remove();
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));

  const dialog = document.getElementById("dash-cancel");
  dashboard.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cancel]");
    if (!button) return;
    dialog.querySelector("form").action = button.dataset.cancel;
    dialog.querySelector("[data-task]").textContent = button.dataset.task;
    dialog.showModal();
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());

  later(Number(verdict().dataset.wait));
})();
