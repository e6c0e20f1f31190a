// The list of executions and the page of one, filled anew while something goes on (live.js); texts that are copied.
"use strict";

(() => {
  const LIST_EVERY = 3000; // milliseconds
  const SAY_COPIED = 2000;

  const runs = document.getElementById("runs");
  if (runs) {
    const unfinished = () => [...runs.querySelectorAll("[data-unfinished]")].map((state) => state.dataset.unfinished);
    exporterLive.watch(runs, {
      url: () => `${runs.dataset.url}?ids=${unfinished().join(",")}`,
      wait: () => (unfinished().length ? LIST_EVERY : 0),
    });
  }

  const run = document.getElementById("run");
  if (run) {
    exporterLive.watch(run, {
      url: () => run.dataset.url,
      wait: () => Number(document.getElementById("run-head").dataset.wait),
    });
    exporterLive.askBeforeCancel(run);
    run.addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button) copy(button, document.getElementById(button.dataset.copy));
    });
  }

  async function copy(button, source) {
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // Without HTTPS there is no clipboard to write to, but there is one to copy a selection to.
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    const words = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => (button.textContent = words), SAY_COPIED);
  }
})();
