"""The conversion job: one pass with a journal, verification and a report."""
