"""Composition root: settings, urls, asgi, celery, admin site, command line. Nobody imports it."""
