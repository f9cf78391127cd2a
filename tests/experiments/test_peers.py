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
    peers.iterations(training, lambda: dense, 2).run()
    assert training.running_loss > 0
    assert all((old != new).any() for old, new in zip(before, training.network.parameters(), strict=True))


def test_only_tuned_programs_need_a_compiler(monkeypatch):
    torch = pytest.importorskip("torch")
    from experiments.bench import contenders, peers

    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    parts = peers.one_run(1, 8, 1, tuned=False)
    assert list(parts) == list(contenders.one_run(1, 8, 1))
    for programs in parts.values():
        for program in programs.values():
            program.make().run()


def test_pytorch_gets_the_settings_of_a_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    from experiments.bench import peers

    class Device(str):
        """A CPU of the type of a GPU."""

        type = "cuda"

    events = []
    monkeypatch.setattr(peers, "DEVICE", Device("cpu"))
    monkeypatch.setattr(torch, "compile", lambda function, mode: events.append(mode) or function)
    # Every call waits for the device, and cuDNN tries its algorithms for the tuned program alone.
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append(torch.backends.cudnn.benchmark))
    parts = peers.one_run(2, 16, 1, tuned=True)
    tuned = parts["iteration"]["PyTorch, tuned"].make()
    others = [parts["step"]["PyTorch, eager"].make(), parts["generation"]["PyTorch, the notebook"].make()]
    for call in (tuned, *others, tuned):
        call.run()
    assert events == ["reduce-overhead", True, False, False, True]
    assert peers.platform() == "gpu"
    # Convolutions as jax's are by default, and the generation's products never in TF32.
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
