"""Health, metrics, schema and documentation paths."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
