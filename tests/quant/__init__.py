"""Tests of the package `quant`."""
