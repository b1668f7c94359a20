import logging
import signal
import subprocess

import pytest


def pytest_collection_modifyitems(items):
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def host_reads():
    """A context manager that lists the operations, including backward ones, that make the host wait for the device."""
    from retinanet.benchmarks.measure import HostReads

    return HostReads


@pytest.fixture
def restore_process_settings():
    """Restore the process-wide settings that a command changes."""
    import torch

    was_deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(was_deterministic)
    root = logging.getLogger("retinanet")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # a log file may still be open


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A small synthetic dataset of 24 training and 8 validation images. All tests share it, so none may change it."""
    from retinanet.data.synthetic.shapes import write_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, num_train=24, num_val=8, progress=False)
    before = files_in(folder)
    yield folder
    assert files_in(folder) == before, "a test has changed the shared dataset"


def files_in(folder):
    """Relative paths and sizes of all files in a folder."""
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def tiny_overrides(shapes):
    """Overrides of the quickstart config for a run of a few seconds: eight steps on 64-pixel images."""
    return (
        *(f"data.{part}.images={shapes / part}" for part in ("train", "val")),
        *(f"data.{part}.annotations={shapes / part}.json" for part in ("train", "val")),
        "data.workers=0",
        "data.resize.shorter=64",
        "data.resize.longer=96",
        "model.channels=64",
        "model.head_convs=1",
        "train.batch_size=4",
        "train.epochs=null",
        "train.steps=8",
        "train.warmup_steps=2",
        "train.log_every=2",
        "train.save_every=4",
        "train.eval_every=4",
        "train.deterministic=true",
        "train.precision=fp32",
        "inference.precision=fp32",
        "device=cpu",
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_overrides, tmp_path_factory):
    """The result of a finished run with `tiny_overrides`. All tests share its folder, so each works in a copy of it."""
    import torch

    from retinanet.config.load import load_config
    from retinanet.engine.train import train

    was_deterministic = torch.are_deterministic_algorithms_enabled()
    result = train(load_config("quickstart", tiny_overrides), tmp_path_factory.mktemp("tiny") / "run")
    torch.use_deterministic_algorithms(was_deterministic)
    before = files_in(result.folder)
    yield result
    assert files_in(result.folder) == before, "a test has changed the shared run"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with the files that the documentation assumes; tests work in copies of it."""
    from tests.helpers.documented_commands import make_workplace

    folder = tmp_path_factory.mktemp("docs")
    make_workplace(folder)
    return folder


@pytest.fixture
def default_interrupts():
    """Handle SIGINT by default, also in new processes: a shell starts its background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
