"""Health, schema and documentation paths."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView

from mhsite import system_views

urlpatterns = [
    path("health/live", system_views.live, name="health-live"),
    path("health/ready", system_views.ready, name="health-ready"),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", system_views.DocsView.as_view(), name="docs"),
]
