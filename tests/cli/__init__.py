"""Tests of the command line: files written whole or not at all, one line per refusal."""
