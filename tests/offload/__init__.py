"""Tests of the package `offload`."""
