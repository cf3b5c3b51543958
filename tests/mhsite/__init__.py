"""Tests of mhsite."""
