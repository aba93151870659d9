"""Short names of kernels: what a C++ template computes and on which type, without its machinery.

``void at::native::vectorized_elementwise_kernel<(int)8, at::native::CUDAFunctor_add<c10::BFloat16>, ...>(...)`` is
``vectorized_elementwise_kernel<CUDAFunctor_add, bf16>``. Every word of a short name but the type stands in the full
one, so it can be searched for. A name that is no template keeps its last part.
"""

import re
from functools import lru_cache

from attrs import frozen

_TYPES = {
    "float": "f32", "double": "f64", "half": "f16", "__half": "f16", "Half": "f16", "half_t": "f16",
    "__nv_bfloat16": "bf16", "__nv_bfloat162": "bf16", "BFloat16": "bf16", "bfloat16_t": "bf16", "tfloat32_t": "tf32",
    "float_e4m3_t": "e4m3", "float_e5m2_t": "e5m2", "Float8_e4m3fn": "e4m3", "Float8_e5m2": "e5m2",
    "long": "i64", "long long": "i64", "unsigned long": "u64", "unsigned long long": "u64", "int": "i32",
    "unsigned int": "u32", "short": "i16", "char": "i8", "signed char": "i8", "unsigned char": "u8", "bool": "bool",
}  # fmt: skip
"""Element types, by the last part of their names."""
_WHOLE = {"i64", "u64", "i32", "u32"}
"""Types of indices too: named only where there is no other."""

_AROUND = re.compile(r"gpu_(kernel|index)_?\w*|(Binary|AUnary|BUnary|Unary)Functor|ReduceOp|func_wrapper_t|enable_\w*")
"""Templates that hand on to what they are given: the functor is inside."""
_MACHINERY = re.compile(
    r"\w*([Aa]rray|tuple|Accessor|TensorInfo|[Oo]ffset\w*|LoadWith\w*|StoreWith\w*|[Pp]arams?|[Tt]raits|Iterator\w*|"
    r"Metadata|TileState)|policy\w*|Policy\w*|OpaqueType|C|T\d*|Sm\d+|identity_decomposer_t"
)
"""Templates and types that say how a kernel is put together, not what it does."""
_LITERAL = re.compile(r"\(?[-\d(].*|true|false|")


@frozen
class _Name:
    """A name without its scope, and the texts of its template arguments."""

    word: str
    arguments: tuple[str, ...]


@lru_cache(maxsize=65536)
def short_name(name: str) -> str:
    """Return the short name of a kernel, a copy or any other operation; what is no C++ name stays as it is."""
    if "(" not in name and "<" not in name:
        return name
    found = _parsed(re.sub(r"\(anonymous namespace\)|<unnamed>", "unnamed", name).replace("operator ()", "operator()"))
    if not found.word:
        return name
    functor = next(filter(None, map(_functor, found.arguments)), "")
    elements = [one for one in map(_element, found.arguments) if one]
    element = next((one for one in elements if one not in _WHOLE), next(iter(elements), ""))
    inside = ", ".join(word for word in (functor, element) if word and word != found.word)
    return f"{found.word}<{inside}>" if inside else found.word


def _functor(argument: str) -> str:
    """Return what a template argument computes; empty for types, numbers and machinery."""
    found = _parsed(argument)
    if _LITERAL.fullmatch(argument) or _type(argument) or _MACHINERY.fullmatch(found.word):
        return ""
    if _AROUND.fullmatch(found.word):
        return next(filter(None, map(_functor, found.arguments)), "")
    return found.word


def _element(argument: str) -> str:
    """Return the element type that a template argument names first; of a lambda, that of its first parameter."""
    if known := _type(argument):
        return known
    found = _parsed(argument)
    if found.word == "OpaqueType" and found.arguments:
        return f"{found.arguments[0].rpartition(')')[2].rstrip('uUlL')}B"
    if _MACHINERY.fullmatch(found.word):
        return ""
    if inside := next(filter(None, map(_element, found.arguments)), ""):
        return inside
    return next(filter(None, map(_type, re.findall(r"lambda\(([^(),]+)", argument)[::-1])), "")


def _type(text: str) -> str:
    return _TYPES.get(text.strip().removeprefix("const ").rstrip(" *&").rpartition("::")[2], "")


def _parsed(text: str) -> _Name:
    """Return the last part of a name's scope, up to its parameters, and its template arguments."""
    word, depth, start = "", 0, 0
    arguments: list[str] = []
    text = text.strip().lstrip("&").replace("::operator()", "")
    for at, letter in enumerate(text):
        if letter in "<([{":
            if depth == 0:
                if letter != "<":
                    break  # parameters, or a function's lambda: the name is over
                start = at + 1
            depth += 1
        elif letter in ">)]}":
            depth -= 1
            if depth == 0:
                arguments.append(text[start:at].strip())
        elif depth == 1 and letter == ",":
            arguments.append(text[start:at].strip())
            start = at + 1
        elif depth == 0:
            if letter in " :":
                word, arguments = "", []
            else:
                word += letter
    return _Name(word, tuple(arguments))
