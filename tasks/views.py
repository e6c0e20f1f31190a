"""Downloads: streamed, only through the row of a succeeded run."""

from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from tasks.files import zip_of
from tasks.models import Execution


@require_GET
@staff_member_required
def download(request: HttpRequest, execution_id: int) -> HttpResponseBase:
    """The file of a run; one zip when it has several parts, a single part with ?part=N (from 1)."""
    if not request.user.has_perm("tasks.view_execution"):
        raise PermissionDenied
    execution = get_object_or_404(Execution, pk=execution_id)
    paths = execution.paths()
    number = request.GET.get("part", "")
    if number.isdecimal() and 0 < int(number) <= len(paths):
        paths = [paths[int(number) - 1]]
    if not paths or not all(path.is_file() for path in paths):
        raise Http404(_("This run has no file, or it has been removed after its retention time."))
    if len(paths) == 1:
        return FileResponse(paths[0].open("rb"), as_attachment=True, filename=paths[0].name)
    response = StreamingHttpResponse(zip_of(paths), content_type="application/zip")
    response["Content-Disposition"] = content_disposition_header(True, f"{paths[0].stem}.zip") or "attachment"
    return response
