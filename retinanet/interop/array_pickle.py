"""Read a pickle of NumPy arrays without executing code from it."""

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class _ArrayType:
    """Placeholder for `numpy.ndarray`, which a pickle passes to `_empty_array` as the type to create."""


def _empty_array(*arguments: Any) -> np.ndarray:
    """Create the empty array that the pickle fills next; its arguments are always the same."""
    return np.ndarray(0, np.uint8)


def _array_from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Create an array from its bytes (pickle protocol 5)."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _number(dtype: np.dtype, value: bytes) -> Any:
    """Create a NumPy number from its bytes."""
    return np.frombuffer(value, dtype, count=1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """Create bytes from the text that stands for them in pickles up to protocol 2."""
    return codecs.latin_1_encode(text)[0]


def _no_bytes() -> bytes:
    """Return no bytes, which pickles up to protocol 2 write as a call, for an empty array."""
    return b""


# The only names that a pickle may refer to. NumPy 2 moved `numpy.core` to `numpy._core`.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_from_buffer for core in ("core", "_core")},
}


class RefusedPickle(pickle.UnpicklingError):
    """Raised for a pickle that contains anything but arrays and plain data."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler for dicts, lists, numbers, text and NumPy arrays, which never imports anything.

    Pickles refer to functions by name. The names that NumPy writes are replaced with the functions above; all others
    are refused. Pickles written by Python 2 are read as well.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return the replacement for a name.

        Raises:
            RefusedPickle: the name is not one that NumPy arrays need.
        """
        if (module, name) not in ALLOWED:
            raise RefusedPickle(f"it refers to {module}.{name}, but only NumPy arrays are read")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to data outside the pickle, such as those that torch.save writes.

        Raises:
            RefusedPickle: always.
        """
        raise RefusedPickle("it refers to data outside the pickle, but only NumPy arrays are read")
