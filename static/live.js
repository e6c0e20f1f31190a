// A page that looks again and again while it is open, and the question before a run is cancelled. For dashboard.js and
// executions.js, as window.exporterLive.
"use strict";

window.exporterLive = (() => {
  const GIVE_UP_AFTER = 10000; // an answer that does not come, in milliseconds
  const RETRY = 5000;

  // Ask for `url()` every `wait()` milliseconds, as long as that is not 0 and somebody looks; `filled()` after each
  // answer. `place` holds the words that say when its figures are old. Returns a function that looks at once.
  function watch(place, { url, wait, filled = () => {} }) {
    let timer = 0;
    let asking = null;

    function stale(name, shown) {
      place.querySelector(`[data-stale="${name}"]`).hidden = !shown;
      place.classList.toggle("exporter-old", Boolean(place.querySelector("[data-stale]:not([hidden])")));
    }

    function later(milliseconds) {
      clearTimeout(timer);
      if (milliseconds && !document.hidden) timer = setTimeout(refresh, milliseconds);
    }

    async function refresh() {
      clearTimeout(timer);
      if (asking) return;
      asking = new AbortController();
      const giveUp = setTimeout(() => asking.abort(), GIVE_UP_AFTER);
      try {
        const answer = await fetch(url(), {
          redirect: "manual", // to the login: there are no figures any more
          credentials: "same-origin",
          signal: asking.signal,
        });
        if (answer.type === "opaqueredirect" || answer.status === 403) {
          stale("lost", false);
          stale("login", true);
          return;
        }
        if (!answer.ok) throw new Error(answer.statusText);
        fill(await answer.text());
        filled();
        stale("lost", false);
        later(wait());
      } catch {
        stale("lost", true);
        later(RETRY);
      } finally {
        clearTimeout(giveUp);
        asking = null;
      }
    }

    document.addEventListener("visibilitychange", () => {
      if (document.hidden) clearTimeout(timer);
      else if (wait()) refresh();
    });
    later(wait());
    return refresh;
  }

  // Each part of the answer takes the place of the one with its id.
  function fill(html) {
    const answer = new DOMParser().parseFromString(html, "text/html");
    for (const part of [...answer.body.children]) {
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
    const isOpen = old.nodeName === "DETAILS" && old.open; // somebody reads in it
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    if (isOpen) old.open = true;
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

  // A button with data-cancel (the address) and data-task (the run's name) inside `place` asks before it acts.
  function askBeforeCancel(place) {
    const dialog = document.querySelector("dialog[data-cancels]");
    place.addEventListener("click", (event) => {
      const button = event.target.closest("[data-cancel]");
      if (!button) return;
      dialog.querySelector("form").action = button.dataset.cancel;
      dialog.querySelector("[data-task]").textContent = button.dataset.task;
      dialog.showModal();
    });
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  }

  return { watch, askBeforeCancel };
})();
