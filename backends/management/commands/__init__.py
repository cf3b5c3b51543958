"""Commands of backends for ``manage.py``."""
