"""Tests of the expert map."""
