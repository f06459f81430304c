"""Measurements: scripts that print figures, each compared with a peer or a roof in the same run."""
