// “Test connection” and the like: sends the form as it stands, and shows what came of it beside the button.
"use strict";

(() => {
  const panel = document.querySelector("[data-trial]");
  const form = panel?.closest("form");
  if (!form) return;
  const button = panel.querySelector("button");
  const result = panel.querySelector(".exporter-trial-result");
  const marks = { good: "✓ ", warn: "⚠ ", bad: "✗ " };

  function show({ state, title, lines = [], fields = {} }) {
    const heading = document.createElement("strong");
    heading.textContent = (marks[state] ?? "") + title;
    const paragraphs = lines.map((line) => {
      const paragraph = document.createElement("p");
      paragraph.textContent = line;
      return paragraph;
    });
    result.className = `exporter-trial-result exporter-trial-${state}`;
    result.replaceChildren(heading, ...paragraphs);
    for (const [name, words] of Object.entries(fields)) mark(name, words);
    form.querySelector("[data-trial-fault]")?.scrollIntoView({ block: "center" });
  }

  function mark(name, words) {
    const input = form.elements.namedItem(name);
    const place = input?.closest?.(".field-line") ?? panel;
    const fault = document.createElement("p");
    fault.className = "exporter-fault";
    fault.dataset.trialFault = name;
    fault.textContent = words.join(" ");
    (place.querySelector(".grow") ?? place).append(fault);
    input?.setAttribute?.("aria-invalid", "true");
  }

  function forget() {
    for (const fault of form.querySelectorAll("[data-trial-fault]")) {
      form.elements.namedItem(fault.dataset.trialFault)?.removeAttribute?.("aria-invalid");
      fault.remove();
    }
  }

  const failure = (name) => ({ state: "bad", title: panel.dataset[name].replace("{seconds}", panel.dataset.seconds) });

  async function outcome(signal) {
    try {
      const answer = await fetch(panel.dataset.url, {
        method: "POST",
        body: new FormData(form),
        credentials: "same-origin",
        redirect: "manual", // to the login
        signal,
      });
      if (answer.type === "opaqueredirect") return failure("login");
      if (answer.status === 403 || answer.status === 404) return failure("denied");
      return answer.ok ? await answer.json() : failure("lost");
    } catch {
      return failure(signal.aborted ? "late" : "lost");
    }
  }

  async function run() {
    const began = Date.now();
    const limit = new AbortController();
    const tick = () =>
      show({ state: "running", title: panel.dataset.running.replace("{seconds}", Math.round((Date.now() - began) / 1000)) });
    forget();
    button.disabled = true;
    panel.parentElement.querySelector(".exporter-last")?.remove(); // there is a newer one soon
    tick();
    const ticking = setInterval(tick, 1000);
    const ending = setTimeout(() => limit.abort(), Number(panel.dataset.seconds) * 1000);
    const found = await outcome(limit.signal);
    clearInterval(ticking);
    clearTimeout(ending);
    button.disabled = false;
    show(found);
  }

  // What was said is about the form as it was.
  form.addEventListener("input", () => result.classList.toggle("exporter-trial-old", Boolean(result.textContent)));
  button.addEventListener("click", run);
  button.hidden = false;
})();
