"""Everything that a start looks at, looked at once before anybody waits for it.

A worker imports and reads much on its first start: the plugins' checks, models' files, the GPU library. That
takes a second of a person's time, unless it was done while the site came up.
"""

import logging

from django.db import DatabaseError, connections

from accounts.errors import MhError
from backends import gpu, selectors
from backends.models import Backend

logger = logging.getLogger(__name__)


def rehearse(node: str) -> None:
    """Check every backend of ``node`` as a start would. Changes nothing; nothing it finds is an error."""
    try:
        gpu.gpus()
        for row in selectors.backend_list():
            if row.node == node:
                _rehearse(row)
    except DatabaseError as exc:
        logger.debug("not rehearsed: %s", exc)
    finally:
        connections.close_all()


def _rehearse(row: Backend) -> None:
    engine = selectors.backend_engine(row)
    try:
        options = selectors.backend_options(row)
        engine.preflight(options)
        engine.launch(options)
        engine.estimate(options)
    except (MhError, OSError) as exc:
        logger.debug("%s cannot be started as it is configured: %s", row.name, exc)
    except Exception:
        # The boundary of a plugin: its bug is told by the start that meets it.
        logger.debug("%s could not be rehearsed", row.name, exc_info=True)
