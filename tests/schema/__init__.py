"""Tests of the schema room: records, payload, tables, files, hardware."""
