import pytest
import torch
import torchvision


@pytest.fixture(scope="module")
def imagenet_state():
    """State dict with the keys of an ImageNet file of resnet18, with random weights and statistics."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {key: torch.rand_like(value) + 0.5 if "running" in key else value for key, value in state.items()}


@pytest.fixture(scope="module")
def imagenet_file(imagenet_state, tmp_path_factory):
    """File that contains `imagenet_state`."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(imagenet_state, path)
    return path
