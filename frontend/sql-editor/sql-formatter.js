// What static/sql_editor.js uses of sql-formatter, loaded when somebody first formats.
export { formatDialect, mysql, postgresql, sqlite } from "sql-formatter";
