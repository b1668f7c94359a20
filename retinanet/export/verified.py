"""Write an export under a temporary name, verify it, and give it its name only if it passes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retinanet.errors import InputError, make_folder
from retinanet.export import numpy_runtime
from retinanet.export.metadata import SUFFIXES, Format, Metadata, read_metadata
from retinanet.export.verify import verify_ap, verify_detections
from retinanet.export.write import open_export, program_of, write_export
from retinanet.formats.dataset import Dataset
from retinanet.inference.predictor import Predictor

WEIGHTS_SUFFIX = ".bin"  # of OpenVINO's second file
RUNTIME = Path(numpy_runtime.__file__)


def check_output(output: Path, to: Format) -> None:
    """Check that an export can be written, and would replace only an earlier one.

    Raises:
        InputError: it cannot, or it would replace another file.
    """
    if output.suffix != SUFFIXES[to]:
        raise InputError(f"--output {output}: expected a name that ends with {SUFFIXES[to]} for --to {to}")
    make_folder(output.parent)
    if output.is_dir():
        raise InputError(f"--output {output}: is a folder; pass the name of a file in it")
    if output.exists():
        try:
            read_metadata(output)
        except InputError as error:
            raise InputError(f"--output: {error}, or choose another name, since this file is not replaced") from None
    elif to == "openvino" and output.with_suffix(WEIGHTS_SUFFIX).exists():
        raise InputError(f"--output: {output.with_suffix(WEIGHTS_SUFFIX)} already exists; choose another name")
    runtime = output.with_name(RUNTIME.name)
    first_line = RUNTIME.read_text(encoding="utf-8").partition("\n")[0]
    if runtime.exists() and not runtime.read_bytes().startswith(first_line.encode()):
        raise InputError(f"{runtime}: already exists and is another file; choose another folder for --output")


def export_verified(
    predictor: Predictor,
    output: Path,
    metadata: Metadata,
    *,
    to: Format,
    images: Sequence[np.ndarray],
    data: Dataset | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[str]:
    """Export a detector, verify the file in its own runtime, and move it to `output`; nothing is left if it fails.

    `numpy_runtime.py`, which prepares images and finishes detections, is copied beside it.

    Args:
        predictor: on the CPU, in float32 and not compiled.
        images: uint8 (H, W, C), on which to compare detections or, for INT8, to measure the ranges of activations.
        data: dataset on which to compare AP.
        progress: called with a description of each step.

    Returns: a description of each verification.

    Raises:
        ExportRejected: the exported file detects something else.
        InputError: an optional package is not installed, or the disk is full.
    """
    assert data is not None or metadata.precision != "int8"
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            path = Path(folder) / output.name
            is_int8 = metadata.precision == "int8"
            progress(f"exporting to {to}" + (f" in INT8, with {len(images)} images" if is_int8 else ""))
            program = program_of(predictor, nms=metadata.nms)
            write_export(program, path, metadata, to=to, calibration=images if is_int8 else ())
            progress("verifying")
            results = verify_file(path, predictor, to=to, images=images, data=data)
            for file in sorted(Path(folder).iterdir()):  # OpenVINO's weights before the model that needs them
                os.replace(file, output.with_name(file.name))
        shutil.copyfile(RUNTIME, output.with_name(RUNTIME.name))
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}; choose another folder") from None
    return results


def verify_file(
    path: Path, predictor: Predictor, *, to: Format, images: Sequence[np.ndarray], data: Dataset | None
) -> list[str]:
    """Verify an exported file with the metadata that it contains; see `export_verified`."""
    run, metadata = open_export(path, to=to), read_metadata(path)
    # Quantisation changes every score, so for INT8 only AP can be compared.
    results = [] if metadata.precision == "int8" else [str(verify_detections(run, metadata, predictor, images))]
    if data is not None:
        expected, found = verify_ap(run, metadata, predictor, data)
        results.append(f"AP {found:.4f} on {len(data)} images; with the predictor {expected:.4f}")
    return results
