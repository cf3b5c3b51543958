"""Every path of the site. Each app brings its own; the composition is here."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

# Model pages register themselves; only what serves URLs needs them.
admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("", include("accounts.urls")),
    path("", include("audit.urls")),
    path("", include("backends.urls")),
    path("", include("router.urls")),
    path("", include("mhsite.system_urls")),
]
