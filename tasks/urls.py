from django.urls import path, re_path

from exporter_site.links import PREFIX
from tasks import views

app_name = "tasks"
# Whatever stands behind the prefix is a link or the ruin of one: no address there may answer in a way of its own.
_LINK = rf"^{PREFIX.lstrip('/')}(?P<token>[\s\S]*)"
urlpatterns = [
    path("executions/<int:execution_id>/download", views.download, name="download"),
    re_path(rf"{_LINK}/file$", views.link_file, name="link-file"),
    re_path(rf"{_LINK}$", views.link_page, name="link"),
]
