"""The Celery application, for scheduler.executor: celery. Workers: celery -A exporter_site.celery worker"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")

from django.conf import settings  # needs the line above

SECONDS_TO_BROKER = 3.0  # a broker that is away must not hold up the scheduler

app = Celery("exporter_site")
app.conf.update(
    broker_url=settings.CONFIG.celery.broker_url.get_secret_value(),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # a worker waits for its broker as long as it takes
    broker_connection_timeout=SECONDS_TO_BROKER,
    broker_transport_options={
        "socket_connect_timeout": SECONDS_TO_BROKER,
        "socket_timeout": SECONDS_TO_BROKER * 10,
        "max_retries": 0,
    },
    imports=("tasks.executors.celery_worker",),
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_default_queue="exporter",
    # An export is long: none shall wait behind another while a worker is free.
    worker_prefetch_multiplier=1,
    # Lines go through our own handlers, which remove secrets.
    worker_hijack_root_logger=False,
    timezone=settings.TIME_ZONE,
)
