"""Tests of the compare room: known differences, rates of right and wrong verdicts, and laws that must hold."""
