"""Tests. Each folder mirrors one package of the source."""
