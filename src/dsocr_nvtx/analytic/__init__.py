"""Dimensions in, `Cost` out: the analytic model of DeepSeek-OCR. Imports no torch and holds no state."""
