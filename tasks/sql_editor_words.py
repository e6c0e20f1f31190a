"""What static/sql_editor.js says, in the language of the request."""

from django.utils.translation import gettext as _


def words() -> dict[str, str]:
    return {
        "label": _("SQL"),
        "preview": _("Preview"),
        "keys": _(
            "Ctrl-Enter: preview. Ctrl-Space: suggestions. Ctrl-Shift-F: format. Tab indents; press Esc, then Tab to leave the editor."
        ),
        "running": _("Running… {seconds} s"),
        "cancelled": _("Cancelled. The database was told to end the query."),
        "all": _("{rows} rows, all of them, in {seconds} s."),
        "some": _("The first {rows} rows, and there are more, in {seconds} s."),
        "none": _("The query gives no rows ({seconds} s)."),
        "bound": _("SQL as it ran"),
        "null": _("NULL"),
        "empty": _("empty text"),
        "source": _("Choose a data source first."),
        "checking": _("Checking…"),
        "good": _("No fault found: the database accepts the SQL."),
        "line": _("Line {line}:"),
        "tables": _("{tables} tables and {columns} columns for suggestions."),
        "tables_more": _("Suggestions know the first {columns} columns, in {tables} tables."),
        "no_tables": _("No tables for suggestions: {problem}"),
        "unformatted": _("This SQL can't be formatted without changing it, so it stays as it is."),
        "formatted": _("Formatted."),
        "login": _("You are no longer logged in. Log in again in another tab, then come back here."),
        "forbidden": _("You may not do this: it takes the rights to run tasks and to download their files."),
        "gone": _("The data source is not there any more, or not granted to you."),
        "failed": _("There was no answer. Is the network up? Try again."),
    }


def phrases() -> dict[str, str]:
    """CodeMirror's own words."""
    return {
        "Find": _("Find"),
        "Replace": _("Replace"),
        "next": _("Next match"),
        "previous": _("Previous match"),
        "all": _("All matches"),
        "match case": _("Match case"),
        "regexp": _("Regular expression"),
        "by word": _("Whole words"),
        "replace": _("Replace"),
        "replace all": _("Replace all"),
        "close": _("Close"),
        "Completions": _("Suggestions"),
        "Diagnostics": _("Faults"),
        "No diagnostics": _("No faults"),
    }
