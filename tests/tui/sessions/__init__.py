"""Tests of the saved conversations."""
