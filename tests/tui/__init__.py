"""Tests of the package `tui`."""
