"""Tests of the ingest room: strangers' files into our tables, or one clear line."""
