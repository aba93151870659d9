"""Tests of the roofline room: rows by hand arithmetic, and sums that add up."""
