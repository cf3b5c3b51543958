"""Engines we start and stop: plugins, lifecycle, supervisor, GPU, operations."""
