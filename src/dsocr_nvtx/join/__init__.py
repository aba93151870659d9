"""GPU operations to hooked calls, every nanosecond of a device to one owner: tables in, tables out, no files read."""
