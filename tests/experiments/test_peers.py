import numpy as np
import pytest

import segjax


def test_pytorch_s_peers_do_what_ours_do():
    torch = pytest.importorskip("torch")
    from experiments.bench import peers

    torch.manual_seed(0)
    dense = peers.dense_batch(2, 16)()
    torch.manual_seed(0)
    by_hand = peers.dense_batch(2, 16, by_hand=True)()
    torch.manual_seed(0)
    separable = peers.separable_batch(2, 16)()
    for image, mask in (by_hand, separable):
        np.testing.assert_allclose(image, dense[0], atol=1e-5)
        np.testing.assert_array_equal(mask, dense[1])
    torch.manual_seed(0)
    noise = torch.randn(3, 2, 1, 16, 16).numpy()[:, :, 0]
    ours = segjax.compose_batch(noise, *peers.SIGMAS, 16 / 5)
    np.testing.assert_allclose(ours.image[..., 0], dense[0][:, 0], atol=1e-5)
    training = peers.Training(channels_last=True)
    before = [array.clone() for array in training.network.parameters()]
    peers.steps(training, lambda: dense, 2).run()
    assert training.running_loss > 0
    assert all((old != new).any() for old, new in zip(before, training.network.parameters(), strict=True))
