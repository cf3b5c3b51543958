"""The door every app goes through: may they? If not, the refusal becomes an audit event.

It stands in ``accounts``, which every app may import and which tells ``audit`` by signal; this is
the name it is known by.
"""

from accounts.access import arequire, refuse, require, settle

__all__ = ["arequire", "refuse", "require", "settle"]
