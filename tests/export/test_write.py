import pytest

from retinanet.config.load import load_config
from retinanet.errors import InputError
from retinanet.export.write import check_exportable


@pytest.mark.parametrize(
    ("set_keys", "remedies"),
    [
        (["inference.tile.size=512"], ["inference.tile.size=null"]),
        (
            ["inference.augment.flip=true", "inference.augment.scales=[0.5]"],
            ["inference.augment.flip=false", "inference.augment.scales=[]"],
        ),
        (["postprocess.soft_nms=linear"], ["postprocess.soft_nms=null"]),
    ],
)
def test_settings_that_exported_programs_lack_are_rejected_with_a_remedy(set_keys, remedies):
    with pytest.raises(InputError) as caught:
        check_exportable(load_config("quickstart", set_keys))
    assert str(caught.value).endswith(f"add {' '.join(remedies)}")
    check_exportable(load_config("quickstart", [*set_keys, *remedies]))
