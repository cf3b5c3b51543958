"""The Celery app: one worker per GPU machine, on the queue ``gpu.<node>``."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")

app = Celery("mh")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
