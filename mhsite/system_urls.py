"""Health, schema and documentation paths."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from mhsite import system_views

urlpatterns = [
    path("health/live", system_views.live, name="health-live"),
    path("health/ready", system_views.ready, name="health-ready"),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
]
