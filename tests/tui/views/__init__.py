"""Tests of what the log is made of."""
