"""`k2lite bench`: speeds measured against the memory's and, on request, against llama.cpp, all in the same run.

Every side works in a process of its own, which is stopped while another one is measured: nothing spins, nothing uses
the memory's bandwidth beside what is measured.
"""
