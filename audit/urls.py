"""Paths of audit."""

from django.urls import path

from audit import api

urlpatterns = [
    path("api/audit/events", api.EventsView.as_view(), name="audit-events"),
    path("api/audit/verify", api.VerifyView.as_view(), name="audit-verify"),
    path("api/audit/export", api.export, name="audit-export"),
]
