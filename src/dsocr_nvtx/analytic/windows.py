"""Which decoder layers have a reference sliding window, and how long it is, from a configuration of either layout.

The library's says ``layer_types`` and ``sliding_window``; the vendor's Unlimited-OCR has ``sliding_window`` at the top
and ``sliding_window_size`` in ``language_config``, and means every layer. DeepSeek-OCR has neither.
"""

from typing import Final

from dsocr_nvtx.analytic.dims import Section

REFERENCE: Final = "reference_sliding_attention"
LIBRARY_WINDOW: Final = 128
"""What the library's Unlimited-OCR takes where its configuration says nothing."""


def windows(root: Section, text: Section, layers: int) -> tuple[int, ...]:
    """Return each layer's window, 0 for full attention; `Refused` for other kinds of attention, or two answers."""
    kinds = text.words("layer_types", layers, ("full_attention", REFERENCE))
    if kinds is not None and REFERENCE not in kinds:
        return (0,) * layers
    window = _window(root, text)
    if kinds is None:
        return (window,) * layers
    if not window:
        raise text.refuse("sliding_window", f"is missing, but layer_types has {REFERENCE}")
    return tuple(window if kind == REFERENCE else 0 for kind in kinds)


def _window(root: Section, text: Section) -> int:
    """Return the window's length; 0 where there is none."""
    sections = [root, text, *(root.section(name) for name in ("language_config",) if root.has(name))]
    fields = ("sliding_window", "sliding_window_size")
    found = {section.count(name): (section, name) for section in sections for name in fields if section.has(name)}
    if len(found) > 1:
        section, name = list(found.values())[-1]
        raise section.refuse(name, f"is one of several lengths of the window, {sorted(found)}")
    if found:
        return next(iter(found))
    named = {str(section.given("model_type").get("model_type")).replace("-", "_") for section in (root, text)}
    return LIBRARY_WINDOW if named & {"unlimited_ocr", "unlimited_ocr_text"} else 0
