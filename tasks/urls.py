from django.urls import path

from tasks import views

app_name = "tasks"
urlpatterns = [path("executions/<int:execution_id>/download", views.download, name="download")]
