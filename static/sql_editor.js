// The SQL editor of the task form. The textarea stays the form's field: without this script, or if a part of it can't be
// loaded, people write there.
"use strict";

(() => {
  const CHECK_AFTER = 700; // milliseconds without a keystroke
  const DIALECTS = { mysql: "MySQL", postgresql: "PostgreSQL", sqlite: "SQLite" };
  const NAME = String.raw`(?:"(?:[^"]|"")*"|${"`"}(?:[^${"`"}]|${"`"}${"`"})*${"`"}|[\w$\u0080-\uffff]+)`;
  const NO_ALIAS =
    "on|where|left|right|inner|outer|cross|full|natural|join|using|group|order|having|limit|union|except|intersect|window|straight_join|for|offset|fetch";

  class Trouble extends Error {}

  document.addEventListener("DOMContentLoaded", () => {
    for (const root of document.querySelectorAll("[data-sql-editor]")) edit(root).catch((error) => console.warn(error));
    for (const place of document.querySelectorAll("[data-sql-shown]")) show(place).catch((error) => console.warn(error));
  });

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function fill(text, values) {
    return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  }

  // What all editors look like, to be read or to be written in.
  function look(cm, dark) {
    const colour = (name) => ({ color: `var(--sql-${name})` });
    const style = cm.HighlightStyle.define([
      { tag: [cm.tags.keyword, cm.tags.typeName], ...colour("keyword"), fontWeight: "600" },
      { tag: [cm.tags.string, cm.tags.special(cm.tags.string)], ...colour("text") },
      { tag: [cm.tags.number, cm.tags.bool, cm.tags.null], ...colour("number") },
      { tag: [cm.tags.lineComment, cm.tags.blockComment], ...colour("comment"), fontStyle: "italic" },
      { tag: [cm.tags.standard(cm.tags.name)], ...colour("function") },
    ]);
    const mark = cm.Decoration.mark({ class: "exporter-sql-name" });
    const names = new cm.MatchDecorator({
      regexp: /\{\{[^{}]*\}\}/g,
      decorate: (add, from, to, _match, view) => {
        // In a comment they are nothing but a comment.
        if (!/Comment/.test(cm.syntaxTree(view.state).resolveInner(from, 1).name)) add(from, to, mark);
      },
    });
    const marker = cm.ViewPlugin.define(
      (view) => ({
        decorations: names.createDeco(view),
        tree: cm.syntaxTree(view.state),
        update(update) {
          const tree = cm.syntaxTree(update.state);
          this.decorations = tree === this.tree ? names.updateDeco(update, this.decorations) : names.createDeco(update.view);
          this.tree = tree;
        },
      }),
      { decorations: (plugin) => plugin.decorations },
    );
    return [cm.syntaxHighlighting(style), marker, cm.EditorView.lineWrapping, dark.of(isDark(cm))];
  }

  function isDark(cm) {
    return cm.EditorView.darkTheme.of(document.documentElement.classList.contains("dark"));
  }

  function followTheme(cm, view, dark) {
    new MutationObserver(() => view.dispatch({ effects: dark.reconfigure(isDark(cm)) })).observe(document.documentElement, {
      attributeFilter: ["class"],
    });
  }

  async function show(place) {
    const cm = await import(place.dataset.codemirror);
    const dark = new cm.Compartment();
    const view = new cm.EditorView({
      doc: place.textContent,
      extensions: [
        cm.sql({ dialect: cm[DIALECTS[place.dataset.sqlShown]] }),
        look(cm, dark),
        cm.EditorState.readOnly.of(true),
        cm.EditorView.editable.of(false),
        cm.EditorView.contentAttributes.of({ tabindex: "0", "aria-label": "SQL", "aria-readonly": "true" }),
      ],
    });
    followTheme(cm, view, dark);
    place.replaceWith(element("div", { class: "exporter-sql exporter-sql-shown" }, view.dom));
  }

  async function edit(root) {
    const textarea = root.querySelector("textarea");
    const form = textarea.form;
    const { words, phrases, ...urls } = JSON.parse(root.querySelector("script").textContent);
    const part = (name) => root.querySelector(`[data-sql="${name}"]`);
    const cm = await import(urls.codemirror);

    let tables = []; // {schema, name, ready, columns: [{name, ready, type}]}
    let names = [];
    let dialect = "mysql";
    const language = new cm.Compartment();
    const dark = new cm.Compartment();

    part("keys").textContent = words.keys;
    const label = form.querySelector(`label[for="${textarea.id}"]`)?.textContent.trim() || words.label;
    const view = new cm.EditorView({
      doc: textarea.value,
      extensions: [
        cm.Prec.highest(
          cm.keymap.of([
            { key: "Mod-Enter", run: () => (preview(), true) },
            { key: "Mod-Shift-f", run: () => (format(), true), preventDefault: true },
            { key: "Tab", run: cm.acceptCompletion },
          ]),
        ),
        cm.basicSetup,
        cm.keymap.of([cm.indentWithTab]),
        cm.lintGutter(),
        look(cm, dark),
        language.of([]),
        cm.EditorState.phrases.of(phrases),
        cm.EditorView.contentAttributes.of({
          "aria-label": label,
          "aria-describedby": `${part("keys").id}${textarea.getAttribute("aria-describedby") ? ` ${textarea.getAttribute("aria-describedby")}` : ""}`,
          spellcheck: "false",
        }),
        cm.EditorView.updateListener.of((update) => {
          if (!update.docChanged) return;
          const text = update.state.doc.toString();
          if (textarea.value !== text) {
            textarea.value = text;
            textarea.dispatchEvent(new Event("input", { bubbles: true }));
          }
          checkSoon();
        }),
      ],
    });
    followTheme(cm, view, dark);
    textarea.before(view.dom);
    // Still the field that a label, or the browser's own words about it, leads to.
    textarea.classList.add("exporter-sql-field");
    textarea.tabIndex = -1;
    textarea.setAttribute("aria-hidden", "true");
    textarea.addEventListener("focus", () => view.focus());
    textarea.addEventListener("input", () => {
      if (textarea.value !== view.state.doc.toString()) replaceAll(textarea.value);
    });
    for (const name of ["keys", "tools"]) part(name).hidden = false;

    function replaceAll(text) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
    }

    // Asking the server.

    function fields() {
      const sent = { sql: view.state.doc.toString() };
      for (const name of ["data_source", "params", "timezone", "cron", "name"]) sent[name] = form.elements[name]?.value ?? "";
      return sent;
    }

    async function ask(url, sent, signal) {
      let answer;
      try {
        answer = await fetch(url, {
          method: "POST",
          body: new URLSearchParams(sent),
          headers: { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value },
          credentials: "same-origin",
          redirect: "manual", // to the login
          signal,
        });
      } catch (error) {
        throw error.name === "AbortError" ? error : new Trouble(words.failed);
      }
      if (answer.type === "opaqueredirect") throw new Trouble(words.login);
      if (answer.status === 403) throw new Trouble(words.forbidden);
      if (answer.status === 404) throw new Trouble(words.gone);
      if (!answer.ok) throw new Trouble(words.failed);
      return answer.json();
    }

    function say(text, kind = "") {
      const status = part("status");
      status.hidden = !text;
      status.textContent = text;
      status.dataset.kind = kind;
    }

    function sayProblem(problem) {
      // Our own sentences name the line themselves, those of a database rarely.
      const named = !problem.line || new RegExp(`\\b${problem.line}\\b`).test(problem.message);
      say(named ? problem.message : `${fill(words.line, problem)} ${problem.message}`, "bad");
    }

    function mark(problem) {
      const lines = view.state.doc.lines;
      const line = problem?.line && view.state.doc.line(Math.min(problem.line, lines));
      const indent = line ? line.text.search(/\S|$/) : 0;
      const found = line ? [{ from: line.from + indent, to: line.to, severity: "error", message: problem.message }] : [];
      view.dispatch(cm.setDiagnostics(view.state, found));
    }

    // Checking.

    let timer = 0;
    let checking = null;

    function checkSoon() {
      clearTimeout(timer);
      timer = setTimeout(() => check(false), CHECK_AFTER);
    }

    async function check(withDatabase) {
      clearTimeout(timer);
      checking?.abort();
      if (running) return;
      const sent = fields();
      if (!sent.data_source) {
        if (withDatabase) say(words.source, "bad");
        return;
      }
      const mine = (checking = new AbortController());
      if (withDatabase) say(words.checking);
      try {
        const answer = await ask(urls.check, withDatabase ? { ...sent, database: "1" } : sent, mine.signal);
        if (mine !== checking) return;
        if (answer.names.length) showNames(answer.names, sent.timezone);
        if (!withDatabase && !sent.sql.trim()) return;
        mark(answer.problem);
        if (answer.problem) sayProblem(answer.problem);
        else if (withDatabase) say(words.good, "good");
        else if (part("status").dataset.kind === "bad") say("");
      } catch (error) {
        if (error.name !== "AbortError" && withDatabase) say(error.message, "bad");
      }
    }

    // The preview.

    let running = null;

    async function preview() {
      if (running) return;
      cm.closeCompletion(view);
      clearTimeout(timer);
      checking?.abort();
      const sent = fields();
      if (!sent.data_source) {
        say(words.source, "bad");
        return;
      }
      running = new AbortController();
      const began = performance.now();
      const tell = () => say(fill(words.running, { seconds: Math.floor((performance.now() - began) / 1000) }));
      tell();
      const ticking = setInterval(tell, 1000);
      turn(true);
      part("result").hidden = true;
      let last = () => {};
      try {
        const answer = await ask(urls.preview, sent, running.signal);
        mark(answer.problem);
        last = answer.problem ? () => sayProblem(answer.problem) : () => showRows(answer);
      } catch (error) {
        last = () => (error.name === "AbortError" ? say(words.cancelled) : say(error.message, "bad"));
      } finally {
        clearInterval(ticking);
        running = null;
        turn(false);
        last();
      }
    }

    function turn(on) {
      const hadFocus = document.activeElement === part(on ? "preview" : "cancel");
      part("preview").hidden = on;
      part("cancel").hidden = !on;
      if (hadFocus) part(on ? "cancel" : "preview").focus();
    }

    function showRows({ columns, rows, more, seconds, sql }) {
      say(fill(rows.length ? (more ? words.some : words.all) : words.none, { rows: rows.length, seconds }), "good");
      const head = columns.map(({ name, type }) => element("th", { scope: "col" }, name, element("small", {}, type)));
      const lines = rows.map((row) => element("tr", {}, ...row.map(cell)));
      const table = element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...lines),
      );
      part("result").replaceChildren(
        element("div", { class: "exporter-sql-rows", tabindex: "0", role: "region", "aria-label": words.preview }, table),
        element("details", {}, element("summary", {}, words.bound), element("pre", { class: "exporter-code" }, sql)),
      );
      part("result").hidden = false;
    }

    function cell(text) {
      if (text === null) return element("td", { class: "exporter-sql-null" }, words.null);
      if (text === "") return element("td", { class: "exporter-sql-empty" }, words.empty);
      return element("td", {}, text);
    }

    // The date names.

    function showNames(found, zone) {
      names = found;
      part("zone").textContent = zone;
      for (const [name, value] of found) {
        const button = part("names").querySelector(`[data-insert="${CSS.escape(name)}"]`);
        if (button) button.nextElementSibling.textContent = value;
      }
    }

    part("names").addEventListener("click", (event) => {
      const name = event.target.closest("[data-insert]")?.dataset.insert;
      if (!name) return;
      view.dispatch(view.state.replaceSelection(name));
      view.focus();
    });
    names = [...part("names").children].map((line) => [line.children[0].dataset.insert, line.children[1].textContent]);

    // Tables and columns.

    let schemaOf = null; // the source whose tables are known, or asked for

    async function learn() {
      const source = form.elements.data_source?.value ?? "";
      if (source === schemaOf) return;
      schemaOf = source;
      tables = [];
      part("tables").textContent = "";
      if (!source) return;
      checkSoon();
      try {
        const answer = await ask(urls.schema, { data_source: source });
        if (source !== schemaOf) return;
        use(answer.dialect);
        tables = answer.tables.map(([schema, ready, columns]) => ({
          schema: plain(schema),
          ready: schema ? `${schema}.${ready}` : ready,
          own: ready,
          name: plain(ready),
          columns: columns.map(([column, type]) => ({ name: plain(column), ready: column, type })),
        }));
        const known = answer.more ? words.tables_more : words.tables;
        part("tables").textContent = answer.problem
          ? fill(words.no_tables, { problem: answer.problem.message })
          : fill(known, { tables: tables.length, columns: answer.count });
      } catch (error) {
        if (source === schemaOf) part("tables").textContent = error.message;
        schemaOf = null; // the next look may be luckier
      }
    }

    function use(name) {
      dialect = name;
      const grammar = cm[DIALECTS[name]];
      view.dispatch({
        effects: language.reconfigure([
          cm.sql({ dialect: grammar, upperCaseKeywords: true }),
          grammar.language.data.of({ autocomplete: suggest }),
        ]),
      });
    }

    function suggest(context) {
      const opened = context.matchBefore(/\{\{[^{}]*$/);
      if (opened) return suggestNames(opened, context);
      const node = cm.syntaxTree(context.state).resolveInner(context.pos, -1);
      if (/String|Comment/.test(node.name)) return null;
      let word = context.matchBefore(/[\w$\u0080-\uffff]*$/).text;
      let mark = "";
      if (node.name === "QuotedIdentifier") {
        const typed = context.state.sliceDoc(node.from, context.pos);
        [mark, word] = [typed[0], typed.slice(1)];
        if (word.endsWith(mark)) return null; // behind it
      }
      const start = context.pos - word.length - mark.length;
      const before = context.state.sliceDoc(Math.max(0, start - 300), start);
      const owner = before.match(new RegExp(String.raw`(${NAME}(?:\s*\.\s*${NAME})?)\s*\.\s*$`))?.[1];
      if (!owner && !mark && !word && !context.explicit) return null;
      const mentioned = tablesIn(context.state.doc.toString());
      const options = owner ? ofOwner(owner, mentioned) : ofAll(mentioned);
      return {
        from: context.pos - word.length,
        options: mark ? options.map((option) => inQuotes(option, mark)) : options,
        validFor: mark ? undefined : /^[\w$\u0080-\uffff]*$/,
      };
    }

    function suggestNames(opened, context) {
      const given = (() => {
        try {
          return Object.entries(JSON.parse(form.elements.params?.value || "{}")).map(([name, value]) => [`{{ params.${name} }}`, String(value)]);
        } catch {
          return [];
        }
      })();
      const apply = (view, option, from, to) => {
        const rest = view.state.sliceDoc(to, to + 10).match(/^\s*\}\}/)?.[0] ?? "";
        view.dispatch({
          changes: { from, to: to + rest.length, insert: option.label },
          selection: { anchor: from + option.label.length },
        });
      };
      const options = [...names, ...given].map(([label, detail]) => ({ label, detail, type: "variable", apply }));
      return { from: opened.from, options, validFor: /^\{\{[\s\w.+-]*$/ };
    }

    function plain(name) {
      const mark = name[0];
      return mark === '"' || mark === "`" ? name.slice(1, -1).replaceAll(mark + mark, mark) : name;
    }

    function same(one, other) {
      return one.toLowerCase() === other.toLowerCase();
    }

    function find(path) {
      const [name, schema] = path.map(plain).reverse();
      return tables.find((table) => same(table.name, name) && (!schema || same(table.schema, schema)));
    }

    // The tables that the SQL reads: [{table, alias}]
    function tablesIn(text) {
      const step = new RegExp(
        String.raw`(?:\b(?:from|join)|,)\s+(${NAME})(?:\s*\.\s*(${NAME}))?(?:\s+(?:as\s+)?(?!(?:${NO_ALIAS})\b)(${NAME}))?`,
        "gi",
      );
      const found = [];
      for (const [, first, second, third] of text.matchAll(step)) {
        const table = find(second ? [first, second] : [first]);
        if (table) found.push({ table, alias: third ? plain(third) : "" });
      }
      return found;
    }

    function columnOption(column, boost) {
      return { label: column.name, apply: column.ready, detail: column.type, type: "property", boost };
    }

    function tableOption(table, ready) {
      return { label: table.name, apply: ready, detail: table.schema, type: "class" };
    }

    function ofOwner(owner, mentioned) {
      const path = owner.match(new RegExp(NAME, "g"));
      const named = mentioned.find(({ alias }) => path.length === 1 && same(alias, plain(path[0])));
      const table = named?.table ?? find(path);
      if (table) return table.columns.map((column) => columnOption(column, 0));
      return tables.filter((other) => same(other.schema, plain(path[0]))).map((other) => tableOption(other, other.own));
    }

    function ofAll(mentioned) {
      const columns = mentioned.flatMap(({ table }) => table.columns.map((column) => columnOption(column, 2)));
      return [...columns, ...tables.map((table) => tableOption(table, table.ready))];
    }

    // The opening quote is there already, and the editor may have put the closing one behind it.
    function inQuotes(option, mark) {
      const ready = option.apply.startsWith(mark) ? option.apply : mark + option.label.replaceAll(mark, mark + mark) + mark;
      return {
        ...option,
        apply: (view, _option, from, to) => {
          const closed = view.state.sliceDoc(to, to + 1) === mark ? 1 : 0;
          view.dispatch({ changes: { from: from - 1, to: to + closed, insert: ready }, selection: { anchor: from - 1 + ready.length } });
        },
      };
    }

    // Formatting.

    async function format() {
      const before = view.state.doc.toString();
      if (!before.trim()) return;
      const formatter = await import(urls.formatter).catch(() => null);
      const after = formatter && formatted(before, dialect, formatter);
      if (before !== view.state.doc.toString()) return; // somebody writes on
      if (after !== null && after !== before) replaceAll(after);
      clearTimeout(timer); // what is said here stays
      checking?.abort();
      say(formatter ? (after === null ? words.unformatted : words.formatted) : words.failed, after === null ? "bad" : "good");
    }

    const actions = { preview, format, check: () => check(true), cancel: () => running?.abort() };
    for (const [name, action] of Object.entries(actions)) part(name).addEventListener("click", action);
    for (const name of ["data_source", "timezone", "params"]) {
      const field = form.elements[name];
      const changed = name === "data_source" ? learn : checkSoon;
      field?.addEventListener?.("change", changed);
      // The theme's choice with search tells jQuery only.
      if (field?.tagName === "SELECT" && window.django?.jQuery) window.django.jQuery(field).on("change", changed);
    }
    use(dialect);
    learn();
  }

  // `text` with other blanks between its words, or null when nothing less would do. Names, texts and comments are as before.
  function formatted(text, dialect, formatter) {
    let result;
    try {
      result = formatter.formatDialect(text, {
        dialect: formatter[dialect],
        keywordCase: "preserve",
        dataTypeCase: "preserve",
        functionCase: "preserve",
        identifierCase: "preserve",
        paramTypes: { custom: [{ regex: String.raw`\{\{[^{}]*\}\}` }] },
      });
    } catch {
      return null; // it can't read what is there, half-written as a rule
    }
    const before = pieces(text, dialect).filter((piece) => piece.trim());
    const after = pieces(result, dialect);
    let place = 0;
    for (const [index, piece] of after.entries()) {
      if (!piece.trim()) continue;
      const original = before[place++];
      if (original === undefined || original.replace(/\s/g, "") !== piece.replace(/\s/g, "")) return null;
      after[index] = original;
    }
    return place === before.length ? after.join("") : null;
  }

  // Blanks, words, single signs, and as one piece each: names, texts, comments. Joined they are `text` again.
  function pieces(text, dialect) {
    const mysql = dialect === "mysql";
    const quoted = (mark, escapes) => `${mark}(?:[^${mark}${escapes ? "\\\\" : ""}]|${mark}${mark}${escapes ? "|\\\\[^]" : ""})*${mark}`;
    const kinds = [
      String.raw`\{\{[^]*?\}\}`,
      "--[^\\n]*",
      ...(mysql ? ["#[^\\n]*"] : []),
      String.raw`\/\*[^]*?\*\/`,
      ...(dialect === "postgresql" ? [`[eE]${quoted("'", true)}`, String.raw`(?<![\w$])(?<tag>\$\w*\$)[^]*?\k<tag>`] : []),
      quoted("'", mysql),
      quoted('"', mysql),
      quoted("`", false),
      ...(dialect === "sqlite" ? [String.raw`\[[^\]]*\]`] : []),
      "\\s+",
      "[\\w$\\u0080-\\uffff]+",
      "[^]",
    ];
    return text.match(new RegExp(kinds.join("|"), "g")) ?? [];
  }
})();
