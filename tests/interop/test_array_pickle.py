import builtins
import io
import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from retinanet.interop.array_pickle import ArrayUnpickler, RefusedPickle


def load(data: bytes):
    return ArrayUnpickler(io.BytesIO(data)).load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_kind_are_read_bit_for_bit(protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "float": rng.standard_normal((3, 2, 1, 5)).astype(np.float32),
        "double": rng.standard_normal(4),
        "half": rng.standard_normal(7).astype(np.float16),
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))),
        "transposed": rng.standard_normal((2, 5)).T,
        "big endian": np.arange(5, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float32),
        "no axes": np.array(3.5),
        "integers": np.arange(6),
        "flags": np.array([True, False]),
        "nan": np.array([np.nan, np.inf]),
    }
    read = load(pickle.dumps({"model": arrays, "__author__": "someone", "list": [1, 2.5, None]}, protocol))
    assert read["__author__"] == "someone" and read["list"] == [1, 2.5, None]
    assert list(read["model"]) == list(arrays)
    for name, expected in arrays.items():
        found, native = read["model"][name], expected.dtype.newbyteorder("=")  # NumPy swaps bytes if needed
        assert found.dtype.newbyteorder("=") == native and found.shape == expected.shape, name
        assert found.astype(native).tobytes() == expected.astype(native).tobytes(), name


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_and_ordered_dicts_are_read(protocol):
    from collections import OrderedDict

    value = OrderedDict(a=np.float32(1.5), b=np.int64(-3))
    read = load(pickle.dumps(value, protocol))
    assert list(read.items()) == [("a", 1.5), ("b", -3)]


def test_arrays_pickled_by_older_numpy_and_by_python_2_are_read():
    array = np.arange(4, dtype=np.float32)
    new = pickle.dumps({"w": array}, 2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"_codecs" in new and np.array_equal(load(old)["w"], array)
    # Python 2 has one type for text and bytes, written with the opcode SHORT_BINSTRING, "U".
    data = array.tobytes()
    python2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x04\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(data)]) + data + b"tb."
    )
    pickletools.dis(python2, out=io.StringIO())  # it is well formed
    assert np.array_equal(load(python2), array)


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {sprung}",)),
        (builtins.eval, ("open('{sprung}', 'w')",)),
        (builtins.exec, ("open('{sprung}', 'w')",)),
        (open, ("{sprung}", "w")),
        (builtins.__import__, ("os",)),
        (subprocess.getoutput, ("touch {sprung}",)),
        (np.save, ("{sprung}", 1)),
        (np.fromfile, ("{sprung}",)),
        (np.load, ("{sprung}",)),
        (np.array, ([1, 2],)),
        (np.frombuffer, (b"1234",)),
    ],
)
def test_pickles_that_call_anything_else_are_refused_and_nothing_runs(tmp_path, function, arguments, protocol):
    sprung = tmp_path / "sprung"
    arguments = tuple(one.format(sprung=sprung) if isinstance(one, str) else one for one in arguments)
    data = pickle.dumps({"model": {"w": np.ones(2), "x": Call(function, *arguments)}}, protocol)
    with pytest.raises(RefusedPickle, match=f"it refers to .*{function.__name__}, but only NumPy arrays are read"):
        load(data)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch sprung'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",  # its name in Python 2
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.",  # a dotted name, from protocol 4 on
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"c_codecs\nlookup\n(S'x'\ntR.",
        b"cnumpy.testing._private.utils\nrunstring\n(S'x'\nNtR.",
        b"(S'x'\nios\nsystem\n.",  # opcode INST
        b"Pdata\n.",  # a persistent id
    ],
)
def test_names_in_other_spellings_are_refused(data):
    with pytest.raises(RefusedPickle):
        load(data)


def test_array_types_cannot_be_called():
    """`numpy.ndarray` and `_reconstruct` could otherwise allocate any amount of memory."""
    with pytest.raises(TypeError):
        load(b"cnumpy\nndarray\n(I1000000000000\ntR.")
    huge = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR."
    assert load(huge).size == 0


def test_extension_codes_are_refused():
    """The opcode EXT1 refers to a name by a number that some module has registered."""
    import copyreg

    copyreg.add_extension("os", "system", 200)
    try:
        with pytest.raises(RefusedPickle, match=r"os\.system"):
            load(b"\x80\x02\x82\xc8.")
    finally:
        copyreg.remove_extension("os", "system", 200)
