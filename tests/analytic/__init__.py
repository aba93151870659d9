"""Tests of the analytic model."""
