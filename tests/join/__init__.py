"""Tests of the join room: nothing lost, nothing counted twice, row order without meaning."""
