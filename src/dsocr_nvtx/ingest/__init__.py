"""Turning a tool's records into NVTX, ANNOUNCEMENTS, LAUNCHES, OPERATIONS and GRAPH_NODES tables.

Everything that is peculiar to a tool's format (column names, enum values, id packing, versions) stays in this room.
"""
