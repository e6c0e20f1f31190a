"""The table of the list of executions. The theme's own makes each cell by several templates, four milliseconds a row."""

from typing import Any

from django import template
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe
from unfold.admin import checkbox
from unfold.templatetags.unfold_list import CHECKBOX_CLASSES, LINK_CLASSES, ROW_CLASSES, result_headers

from tasks.models import Execution

register = template.Library()
CELL, BOX_CELL, LINK = (" ".join(classes) for classes in (ROW_CLASSES, CHECKBOX_CLASSES, LINK_CLASSES))


@register.inclusion_tag("admin/tasks/execution/rows.html")
def runs_table(cl: Any) -> dict[str, Any]:
    """`cl`: the ChangeList of executions."""
    headers = list(result_headers(cl))
    kept = urlencode({"_changelist_filters": cl.get_query_string().removeprefix("?")}) if cl.filter_params else ""
    columns = [(name, str(header["text"])) for name, header in zip(cl.list_display, headers, strict=True)]
    box = checkbox.render(ACTION_CHECKBOX_NAME, "0")
    return {
        "cl": cl,
        "result_headers": headers,
        "num_sorted_fields": sum(bool(header["sortable"] and header["sorted"]) for header in headers),
        "rows": [_row(cl, run, columns, box, f"?{kept}" if kept else "") for run in cl.result_list],
    }


def _row(cl: Any, run: Execution, columns: list[tuple[str, str]], box: SafeString, kept: str) -> SafeString:
    url = reverse("admin:tasks_execution_change", args=[run.pk]) + kept
    cells = []
    for name, label in columns:
        if name == "action_checkbox":
            chosen = mark_safe(box.replace('value="0"', f'value="{run.pk}"'))  # noqa: S308  # of a widget, and a number
            cells.append(format_html('<td class="{}">{}</td>', BOX_CELL, chosen))
            continue
        shown = getattr(cl.model_admin, name)(run) if hasattr(cl.model_admin, name) else getattr(run, name)
        if name in cl.list_display_links:
            shown = format_html('<a href="{}" class="{}">{}</a>', url, LINK, shown)
        cells.append(format_html('<td class="field-{} {}" data-label="{}">{}</td>', name, CELL, label, shown))
    return SafeString("".join(cells))
