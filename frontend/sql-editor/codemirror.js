// What static/sql_editor.js uses of CodeMirror.
export { acceptCompletion, closeCompletion } from "@codemirror/autocomplete";
export { indentWithTab } from "@codemirror/commands";
export { MariaSQL, MySQL, PostgreSQL, SQLite, sql } from "@codemirror/lang-sql";
export { HighlightStyle, syntaxHighlighting, syntaxTree } from "@codemirror/language";
export { lintGutter, setDiagnostics } from "@codemirror/lint";
export { Compartment, EditorState, Prec } from "@codemirror/state";
export { Decoration, EditorView, MatchDecorator, ViewPlugin, keymap } from "@codemirror/view";
export { tags } from "@lezer/highlight";
export { basicSetup } from "codemirror";
