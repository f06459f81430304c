"""Tests of the package `k2lite`."""
