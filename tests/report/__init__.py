"""Tests of the report room: what people read says what the tables say."""
