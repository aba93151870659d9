"""DeepSeek-OCR's layers against what the hardware allows: hooks that carry costs, and the join that times them."""

__version__ = "0.1.0"
