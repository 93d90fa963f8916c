"""The Inception network of the original FID with small random weights, in the layout of torch-fidelity's file."""

from unittest import mock

import torch


def random_inception() -> dict[str, torch.Tensor]:
    """Its shapes are read off a network that was made without weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, *args, **kwargs):
            return None

    with mock.patch("torch_fidelity.feature_extractor_inceptionv3.torch.load", return_value={}):
        network = Unloaded("inception", ["2048"], feature_extractor_weights_path="none")
    generator = torch.Generator().manual_seed(0)

    def weights(tensor):
        """Matrices keep the size of what passes through; variances are positive."""
        if tensor.ndim > 1:
            return torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        return 0.5 + torch.rand(tensor.shape, generator=generator)

    return {key: weights(tensor) for key, tensor in network.state_dict().items()}
