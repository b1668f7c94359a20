import pytest
import torch
import torchvision


@pytest.fixture(scope="module")
def imagenet_state():
    """What an ImageNet file of resnet18 holds, with weights and statistics of its own."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {key: torch.rand_like(value) + 0.5 if "running" in key else value for key, value in state.items()}


@pytest.fixture(scope="module")
def imagenet_file(imagenet_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(imagenet_state, path)
    return path
