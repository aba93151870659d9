"""Builders of what the tests read: nsys-shaped SQLite files, and emitters that listen in place of NVTX."""
