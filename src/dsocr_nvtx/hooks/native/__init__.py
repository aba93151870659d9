"""The native recorder: `recorder.c`, compiled by `build`."""
