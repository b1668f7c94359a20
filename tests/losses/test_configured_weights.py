"""Class weights in a config: computed from the training data, and validated."""

import pytest

from retinanet.config import CrossEntropyConfig, FocalConfig, HingeConfig, LossConfig, SoftmaxFocalConfig
from retinanet.errors import InputError
from retinanet.losses.class_weights import inverse_frequency
from retinanet.losses.configured_weights import checked_alpha, with_class_weights


def test_inverse_frequency_is_replaced_by_numbers_in_the_config():
    focal = LossConfig(classification=FocalConfig(alpha="inverse_frequency", gamma=1.5), box_weight=3.0)
    assert with_class_weights(focal, [10, 20, 90]) == LossConfig(
        classification=FocalConfig(alpha=inverse_frequency([10, 20, 90]), gamma=1.5), box_weight=3.0
    )
    plain = LossConfig(classification=CrossEntropyConfig(alpha="inverse_frequency"))
    assert with_class_weights(plain, [5]).classification == CrossEntropyConfig(alpha=(0.5,))
    softmax = LossConfig(classification=SoftmaxFocalConfig(alpha="inverse_frequency"))
    assert with_class_weights(softmax, [3, 3]).classification == SoftmaxFocalConfig(alpha=(0.5, 0.5))


@pytest.mark.parametrize("classification", [FocalConfig(), FocalConfig(alpha=(0.1, 0.2)), HingeConfig()])
def test_other_configs_are_returned_unchanged(classification):
    cfg = LossConfig(classification=classification)
    assert with_class_weights(cfg, [1, 2, 3]) is cfg


def test_alpha_list_must_have_one_weight_per_class():
    for alpha in (None, 0.3, (0.1, 0.2)):
        assert checked_alpha(FocalConfig(alpha=alpha), 2) == alpha
    assert checked_alpha(FocalConfig(alpha=(0.1, 0.2)), None) == (0.1, 0.2)
    with pytest.raises(InputError, match=r"^loss\.classification\.alpha has 2 values for 3 classes; set one number"):
        checked_alpha(FocalConfig(alpha=(0.1, 0.2)), 3)
    with pytest.raises(InputError, match=r"^loss\.classification\.alpha is inverse_frequency, .* set numbers"):
        checked_alpha(CrossEntropyConfig(alpha="inverse_frequency"), 3)
