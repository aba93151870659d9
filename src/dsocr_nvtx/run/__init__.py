"""The capture side: a model, page images, the prefill and decode loops, and the run directory they leave."""
