"""Ways to damage bytes, each drawn from a seed."""

from collections.abc import Callable
from pathlib import Path
from random import Random

EDGES = (
    0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**40 + 3, 2**47,
    2**53 + 1, 2**61, 2**62, 2**63 - 1, -(2**31), -(2**62), -(2**63),
)  # fmt: skip
"""Whole numbers at which something ends."""

TEXTS = (
    "", "x", "é\u202e", "'); DROP TABLE StringIds; --", "\x00", "\x1b[31m", "a" * 5000, "{", '{"event_id":1}', "dsocr",
    "dsocr/1 ", "dsocr/2 decoder 1", "NaN", "1e999", "../../etc/passwd", "<script>",
)  # fmt: skip
"""Texts that somebody might take for something else."""

Bytes = Callable[[Random, bytearray], str]


def flip(random: Random, data: bytearray) -> str:
    """Flip one bit."""
    at, bit = random.randrange(len(data)), random.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at}"


def flips(random: Random, data: bytearray) -> str:
    """Flip several bits."""
    return ", ".join(flip(random, data) for _ in range(random.randrange(2, 9)))


def overwrite(random: Random, data: bytearray) -> str:
    """Write other bytes over some."""
    at, size = random.randrange(len(data)), random.choice((1, 2, 4, 8, 64, 512))
    fill = random.choice((b"\x00", b"\xff", b"\x7f", None))
    new = random.randbytes(size) if fill is None else fill * size
    data[at : at + size] = new[: len(data) - at]
    return f"{size} bytes at {at}"


def cut(random: Random, data: bytearray) -> str:
    """Cut the end off."""
    keep = random.choice(
        (random.randrange(len(data)), len(data) - random.randrange(1, 64), len(data) // 4096 * 4096 // 2)
    )
    del data[max(keep, 0) :]
    return f"cut to {len(data)} bytes"


def grow(random: Random, data: bytearray) -> str:
    """Append bytes."""
    size = random.choice((1, 8, 4096))
    data += random.randbytes(size)
    return f"{size} bytes more"


def swap(random: Random, data: bytearray) -> str:
    """Copy one block over another."""
    size = random.choice((8, 64, 512, 4096))
    blocks = max(len(data) // size, 1)
    source, target = random.randrange(blocks), random.randrange(blocks)
    data[target * size : (target + 1) * size] = data[source * size : (source + 1) * size]
    return f"block {source} of {size} bytes over block {target}"


def damage(random: Random, data: bytearray) -> str:
    """Damage bytes in one of these ways; single flipped bits most often, as they are the hardest to see."""
    kinds: tuple[Bytes, ...] = (flip, flip, flip, flip, flips, overwrite, overwrite, cut, grow, swap)
    return random.choice(kinds)(random, data)


def damage_file(random: Random, path: Path) -> str:
    """Damage a file's bytes; return which file, and what was done to it."""
    data = bytearray(path.read_bytes())
    what = f"{path.name}: {damage(random, data)}"
    path.write_bytes(data)
    return what
