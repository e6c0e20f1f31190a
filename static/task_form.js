// Help on the form of a task while it is filled in: what a schedule means, how a message reads, whether it arrives.
"use strict";

(() => {
  const dialog = document.getElementById("task-message");
  if (!dialog) return; // nothing can be changed here
  const PAUSE = 300; // in typing, in milliseconds, before anything is asked
  const form = document.getElementById("exporttask_form");
  const value = (id) => document.getElementById(id)?.value ?? "";

  // Ask once for what was typed last: answers to earlier questions are not waited for.
  function onPause(ask) {
    let timer = 0;
    let asking = new AbortController();
    return (...args) => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        asking.abort();
        asking = new AbortController();
        try {
          await ask(asking.signal, ...args);
        } catch (error) {
          if (!(error instanceof TypeError || error.name === "AbortError")) throw error; // else: no connection just now
        }
      }, PAUSE);
    };
  }

  async function post(url, fields, signal) {
    const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    const answer = await fetch(url, {
      method: "POST",
      body: fields,
      headers: { "X-CSRFToken": token },
      redirect: "manual",
      signal,
    });
    return answer.ok ? answer.json() : null;
  }

  // ---- The schedule

  const panel = document.getElementById("task-cron");
  const cron = document.getElementById("id_cron");
  const zone = document.getElementById("id_timezone");
  if (panel && cron && zone) {
    const words = document.getElementById("task-cron-words");
    const presets = panel.querySelector(".exporter-presets");
    const mark = () => {
      const typed = cron.value.trim().replace(/\s+/g, " ");
      for (const button of presets.children) button.setAttribute("aria-pressed", String(button.dataset.cron === typed));
    };
    const explain = onPause(async (signal) => {
      const query = new URLSearchParams({ cron: cron.value, timezone: zone.value });
      const answer = await fetch(`${panel.dataset.url}?${query}`, { redirect: "manual", signal });
      if (answer.ok) words.innerHTML = await answer.text(); // made by the server's template
    });
    for (const field of [cron, zone]) {
      field.addEventListener("input", () => {
        mark();
        explain();
      });
    }
    presets.addEventListener("click", (event) => {
      if (event.target.dataset.cron === undefined) return;
      cron.value = event.target.dataset.cron;
      cron.dispatchEvent(new Event("input", { bubbles: true }));
    });
    presets.hidden = false;
    mark();
  }

  // ---- The messages

  for (const tools of document.querySelectorAll("[data-tools]")) {
    tools.hidden = false; // also in the empty form that new rules are copies of
    const test = tools.querySelector("[data-test]");
    if (test) test.hidden = !dialog.dataset.test;
    const link = tools.querySelector("[data-new-channel]");
    if (link) link.hidden = dialog.dataset.mayAdd === undefined;
  }

  // What a rule, or the task itself, says: its place in the form decides.
  function partOf(element) {
    const rule = element.closest("#rules-group .form-group");
    const find = (name) => (rule ?? form).querySelector(rule ? `[name$="-${name}"]` : `#id_dingtalk_message_${name}`);
    return { rule, template: find("template"), channel: rule && find("channel") };
  }

  function question(part) {
    const fields = new FormData();
    fields.set("task", dialog.dataset.task);
    fields.set("name", value("id_name"));
    fields.set("template", part.template?.value ?? "");
    if (part.rule) {
      fields.set("channel", part.channel?.value ?? "");
      for (const box of part.rule.querySelectorAll('[name$="-events"]:checked')) fields.append("events", box.value);
    }
    return fields;
  }

  function element(tag, text, className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  }

  function say(tools, lines) {
    tools.querySelector("[data-said]").replaceChildren(...lines.map(([text, kind]) => element("li", text, `exporter-said-${kind}`)));
  }

  async function preview(tools) {
    const answer = await post(dialog.dataset.preview, question(partOf(tools))).catch(() => null);
    if (!answer || answer.error) {
      say(tools, [[answer?.error ?? dialog.dataset.failed, "bad"]]);
      return;
    }
    say(tools, []);
    const shown = answer.messages.flatMap(({ event, title, text }) => [
      element("h3", event),
      element("b", title),
      element("pre", text, "exporter-code"),
    ]);
    dialog.querySelector("[data-messages]").replaceChildren(...shown);
    dialog.showModal();
  }

  async function test(tools, button) {
    const part = partOf(tools);
    const fields = question(part);
    if (!part.rule) {
      fields.set("kind", tools.dataset.tools);
      fields.set("recipients", value("id_email_recipients"));
      fields.set("dingtalk_webhook", value("id_dingtalk_webhook"));
      fields.set("dingtalk_secret", value("id_dingtalk_secret"));
    }
    button.disabled = true;
    say(tools, [[dialog.dataset.sending, "open"]]);
    const answer = await post(dialog.dataset.test, fields).catch(() => null);
    button.disabled = false;
    const results = answer?.results ?? [{ ok: false, words: dialog.dataset.failed }];
    say(tools, results.map(({ ok, words }) => [words, ok ? "good" : "bad"]));
  }

  let channelWasMade = false;
  form.addEventListener("click", (event) => {
    const tools = event.target.closest("[data-tools]");
    if (!tools) return;
    if (event.target.closest("[data-preview]")) preview(tools);
    else if (event.target.closest("[data-test]")) test(tools, event.target.closest("[data-test]"));
    else if (event.target.closest("[data-new-channel]")) channelWasMade = true;
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());

  // Back from the tab where a channel was made: it can be chosen, and nothing that was typed is lost.
  window.addEventListener("focus", async () => {
    if (!channelWasMade) return;
    channelWasMade = false;
    const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
    if (!answer?.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const known = page.querySelectorAll('[name="rules-__prefix__-channel"] option');
    for (const select of document.querySelectorAll('#rules-group [name$="-channel"]')) {
      const there = new Set([...select.options].map((option) => option.value));
      for (const option of known) if (!there.has(option.value)) select.append(document.importNode(option, true));
    }
  });

  // Unknown names in a template are said while it is typed.
  const checks = new WeakMap();
  form.addEventListener("input", ({ target }) => {
    if (!(target instanceof HTMLTextAreaElement) || !/(^rules-.*-|message_)template$/.test(target.name)) return;
    if (!checks.has(target)) {
      const fault = element("p", "", "exporter-fault");
      fault.setAttribute("role", "alert");
      target.after(fault);
      checks.set(
        target,
        onPause(async (signal) => {
          const fields = new FormData();
          fields.set("template", target.value);
          fields.set("check", "1");
          const answer = await post(dialog.dataset.preview, fields, signal);
          if (answer) fault.textContent = answer.error;
        }),
      );
    }
    checks.get(target)();
  });
})();
