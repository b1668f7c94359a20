"""The variants of inference whose AP on large images is compared."""

from retinanet.benchmarks.tiles import variants
from retinanet.config.load import load_config


def test_every_variant_is_a_different_valid_config():
    configs = [load_config("quickstart", overrides) for overrides in variants(64).values()]
    different = {(cfg.inference, cfg.postprocess.soft_nms) for cfg in configs}
    assert len(different) == len(configs)


def test_tiles_of_all_variants_have_the_requested_size():
    sizes = [load_config("quickstart", overrides).inference.tile.size for overrides in variants(64).values()]
    assert set(sizes) == {None, 64} and sizes[0] is None
