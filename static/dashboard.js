// The dashboard, filled anew while it is open (live.js).
"use strict";

(() => {
  const dashboard = document.getElementById("dashboard");
  if (!dashboard) return;
  const WHOLE_EVERY = 60000; // what changes slowly, in milliseconds
  const WHOLE_AFTER_END = 10000; // or sooner, when a run has ended

  let lastWhole = Date.now();
  let endedThen = verdict().dataset.ended;
  let whole = false;

  function verdict() {
    return document.getElementById("dash-verdict");
  }

  function url() {
    const age = Date.now() - lastWhole;
    const hasEnded = verdict().dataset.ended !== endedThen;
    whole = age > WHOLE_EVERY || (hasEnded && age > WHOLE_AFTER_END);
    return dashboard.dataset.url + (whole ? "?all" : "");
  }

  function filled() {
    if (!whole) return;
    lastWhole = Date.now();
    endedThen = verdict().dataset.ended;
  }

  exporterLive.watch(dashboard, { url, filled, wait: () => Number(verdict().dataset.wait) });
  exporterLive.askBeforeCancel(dashboard);
})();
