"""Filters of router's templates."""
