"""Who did what: append-only events."""
