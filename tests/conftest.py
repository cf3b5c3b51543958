"""Fixtures every test can use."""
