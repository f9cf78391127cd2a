import json
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Plain, random_variables, to_nhwc, under

import segjax
from segjax.models import PatchCNN, from_config, to_config

pytestmark = pytest.mark.usefixtures("full_precision")

KEY = jax.random.key(0)
IMAGE = np.random.default_rng(1).uniform(size=(2, 12, 12, 1)).astype(np.float32)


def shapes(model, image=IMAGE):
    """The shapes of its logits and variables: to trace a network is enough for them."""
    return jax.eval_shape(partial(model.init_with_output, train=True), KEY, image)


@pytest.fixture(scope="module")
def notebook(golden_model):
    """The golden network and its variables, image and mask."""
    variables = segjax.torch_weights.from_state_dict(under(golden_model, "state/"))
    return segjax.SegmentationCNN(), variables, to_nhwc(golden_model["x"]), to_nhwc(golden_model["mask"])


@pytest.fixture(scope="module")
def trained(notebook):
    """(loss, (logits, updates)) and the gradient in train mode."""
    model, variables, image, mask = notebook

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def objective(params):
        logits, updates = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return segjax.losses.mean_squared_error(logits, mask).mean(), (logits, updates)

    return objective(variables["params"])


def test_train_output_and_running_statistics_match_pytorch(trained, golden_model):
    (_, (logits, updates)), _ = trained
    np.testing.assert_allclose(jax.nn.sigmoid(logits), to_nhwc(golden_model["train/output"]), rtol=0, atol=1e-5)
    statistics = updates["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], golden_model["after/bn.running_mean"], rtol=3e-4)
    np.testing.assert_allclose(statistics["var"], golden_model["after/bn.running_var"], rtol=3e-4)


def test_eval_output_matches_pytorch(notebook, golden_model):
    model, variables, image, _ = notebook
    probability = jax.jit(lambda image: jax.nn.sigmoid(model.apply(variables, image, train=False)))(image)
    np.testing.assert_allclose(probability, to_nhwc(golden_model["eval/output"]), rtol=0, atol=1e-5)


def test_every_gradient_matches_pytorch(notebook, trained, golden_model):
    (value, _), gradient = trained
    assert float(value) == pytest.approx(float(golden_model["train/loss"]), rel=1e-5)
    state = segjax.torch_weights.to_state_dict({"params": gradient, "batch_stats": notebook[1]["batch_stats"]})
    for name, golden in under(golden_model, "grad/").items():
        np.testing.assert_allclose(state[name], golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max(), err_msg=name)


def test_parameter_count_and_table():
    _, variables = shapes(segjax.SegmentationCNN())
    assert segjax.count_parameters(variables) == 13_681
    table = segjax.parameter_table(variables).splitlines()
    counts = {line.split()[0]: line.split()[-1] for line in table}
    assert counts == {"conv1": "416", "norm": "32", "conv2": "6,416", "conv3": "6,416", "out": "401", "total": "13,681"}
    assert "kernel 5x5x1x16" in table[[line.split()[0] for line in table].index("conv1")]


REFUSALS = [
    (ValueError, segjax.SegmentationCNN(), IMAGE[0], "image must have shape"),
    (TypeError, segjax.SegmentationCNN(), IMAGE.astype(int), "image must be of a floating dtype"),
    *(
        (ValueError, segjax.SegmentationCNN(**{name: 0}), IMAGE, f"{name} must be an integer >= 1")
        for name in ("num_channels", "kernel_size", "depth")
    ),
    (ValueError, segjax.UNet(num_halvings=-1), IMAGE, "num_halvings must be an integer >= 0"),
    (ValueError, segjax.UNet(num_channels=0), IMAGE, "num_channels must be an integer >= 1"),
    (ValueError, PatchCNN(patch=0), IMAGE, "patch must be an integer >= 1"),
    (ValueError, PatchCNN(num_channels=6), IMAGE, r"num_channels must be a multiple of patch\^2 = 4, got 6"),
]


@pytest.mark.parametrize(("error", "model", "image", "message"), REFUSALS)
def test_refuses(error, model, image, message):
    with pytest.raises(error, match=message):
        shapes(model, image)


@pytest.fixture(scope="module")
def init():
    """As one program: operation by operation, each would be compiled for itself."""
    return jax.jit(segjax.SegmentationCNN().init)


def test_initial_distribution_is_pytorch_s(init):
    params = init(KEY, IMAGE)["params"]
    for layer, channels in (("conv1", 1), ("conv2", 16), ("conv3", 16), ("out", 16)):
        bound = (25 * channels) ** -0.5
        for array in params[layer].values():
            assert np.abs(array).max() <= bound
        # The standard deviation of the uniform distribution on [-bound, bound] is bound / sqrt(3).
        assert np.std(params[layer]["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert np.any(params[layer]["bias"] != 0)


def test_initial_weights_do_not_depend_on_the_image(init):
    chex.assert_trees_all_equal(init(KEY, IMAGE), init(KEY, jnp.zeros_like(IMAGE)))


def test_dtype_follows_the_image(x64):
    leaves = jax.tree.leaves(shapes(segjax.SegmentationCNN(2, 3), jax.ShapeDtypeStruct(IMAGE.shape, jnp.float64)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float64")}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_predict_takes_the_statistics_that_work(shared):
    """The notebook's flaw 7: after training, a shared BatchNorm is at chance in evaluation mode."""
    model = segjax.SegmentationCNN(num_channels=4, shared_norm=shared)
    train = segjax.make_train(model, num_steps=150, batch_size=4, image_size=32, sigma=6.4)
    batch = segjax.generate_data(jax.random.key(7), 8, 32, sigma=6.4)

    @jax.jit
    def accuracies(key):
        variables = train(key, 1e-2)[0].variables
        batched, _ = model.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        running = model.apply(variables, batch.image, train=False)
        predicted = segjax.predict(model, variables, batch.image)
        return [segjax.metrics.accuracy(segjax.metrics.count(x, batch.mask)) for x in (predicted, batched, running)]

    predicted, batched, running = accuracies(KEY)
    assert predicted == (batched if shared else running)
    assert predicted > 0.8
    if shared:
        assert running < 0.7


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_is_the_number_of_hidden_layers(depth):
    _, variables = shapes(segjax.SegmentationCNN(2, 3, shared_norm=False, depth=depth))
    convolutions, norms = ({f"{kind}{layer}" for layer in range(1, depth + 1)} for kind in ("conv", "norm"))
    assert set(variables["params"]) == {"out"} | convolutions | norms
    assert set(variables["batch_stats"]) == norms


NETWORKS = [
    segjax.SegmentationCNN(2, 4, shared_norm=False, depth=2),
    segjax.UNet(2),
    PatchCNN(9, 2, depth=2, patch=3, standardize=False),
]
MORE_NETWORKS = [
    segjax.UNet(2, num_halvings=0),
    segjax.UNet(2, 4, num_halvings=1),
    PatchCNN(4, depth=1, standardize=False),
    PatchCNN(4, depth=1, standardize=False, sharpen=True),
]
every_network = pytest.mark.parametrize(
    "model", [*NETWORKS, *(pytest.param(model, marks=pytest.mark.slow) for model in MORE_NETWORKS)], ids=str
)


@every_network
def test_receptive_field_and_margin_are_what_moves_a_logit(model):
    """The widest reach of a logit's gradient, over all its places in the squares that the network halves."""
    size = 48 * (model.receptive_field // 48 + 3)
    image = jnp.ones((1, size, size, 1))
    # With no weight below 0 nothing cancels and no ReLU is closed.
    variables = jax.tree.map(np.abs, random_variables(model))

    @jax.jit
    def reach(place):
        gradient = jax.grad(lambda x: model.apply(variables, x)[0, place, size // 2, 0])(image)
        rows = jnp.any(gradient[0, ..., 0] != 0, axis=1)
        first, last = jnp.argmax(rows), size - 1 - jnp.argmax(rows[::-1])
        return last - first + 1, jnp.maximum(place - first, last - place)

    fields, margins = zip(*(reach(size // 2 + offset) for offset in range(12)), strict=True)
    assert max(map(int, fields)) == model.receptive_field
    assert max(map(int, margins)) == model.margin


@every_network
def test_images_of_a_multiple_are_not_padded(model):
    """Where an image is padded, its last row is repeated, and the logits near it move."""
    size, variables = 12 * model.multiple, random_variables(model)

    @jax.jit
    def apart(key):
        smaller = jax.random.uniform(key, (1, size - 1, size, 1))
        padded = jnp.concatenate([smaller, smaller[:, -1:]], axis=1)
        return jnp.abs(model.apply(variables, smaller) - model.apply(variables, padded)[:, :-1]).max()

    assert (apart(KEY) < 1e-6) == (model.multiple > 1)


def test_what_networks_tell_of_themselves():
    shared, separate = segjax.SegmentationCNN(), segjax.SegmentationCNN(shared_norm=False)
    assert (shared.receptive_field, shared.margin, shared.multiple) == (17, 8, 1)
    assert (segjax.UNet().multiple, PatchCNN(9, patch=3).multiple) == (4, 3)
    networks = [shared, separate, segjax.UNet(), PatchCNN(), PatchCNN(standardize=False)]
    assert [model.batch_statistics for model in networks] == [True, False, False, False, False]
    assert [model.standardize for model in networks] == [False, False, False, True, False]
    assert to_config(separate) == {
        "network": "SegmentationCNN",
        "num_channels": 16,
        "kernel_size": 5,
        "shared_norm": False,
        "depth": 3,
    }


class Threshold(nn.Module):
    """A network of somebody else, with what `Network` asks of it: one weight, and a BatchNorm if wanted."""

    norm: bool = False
    receptive_field = 1
    margin = 0
    multiple = 1
    standardize = False

    @property
    def batch_statistics(self):
        return self.norm

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.BatchNorm(use_running_average=not train)(image) if self.norm else image
        return self.param("weight", nn.initializers.ones, ()) * (x - 0.5)


def test_predict_takes_any_network():
    variables = {"params": {"weight": np.float32(1)}}
    np.testing.assert_allclose(segjax.predict(Threshold(), variables, IMAGE), IMAGE - 0.5)
    variables = random_variables(Threshold(norm=True), IMAGE.shape)
    variables["params"]["weight"], variables["batch_stats"]["BatchNorm_0"]["mean"][:] = np.float32(1), 7
    variables["params"]["BatchNorm_0"]["bias"][:] = 0
    # Batch statistics bring the mean to 0, whatever the running ones are.
    np.testing.assert_allclose(segjax.predict(Threshold(norm=True), variables, IMAGE).mean(), -0.5, atol=1e-5)


def test_predict_refuses_a_network_that_does_not_tell():
    message = "model must have the attribute batch_statistics, which segjax.models.Network describes"
    with pytest.raises(TypeError, match=message):
        segjax.predict(Plain(), {"params": {}}, IMAGE)
    with pytest.raises(TypeError, match=message):
        segjax.evaluate(KEY, Plain(), {"params": {}})


@pytest.mark.parametrize("shape", [(12, 12), (13, 10), (1, 5)])
@pytest.mark.parametrize(
    "model",
    [
        *(segjax.SegmentationCNN(2, kernel_size) for kernel_size in (1, 2, 3, 4)),
        segjax.UNet(2, num_halvings=2),
        PatchCNN(9, depth=1, patch=3),
        PatchCNN(4, depth=1, sharpen=True),
    ],
    ids=str,
)
def test_keeps_any_size(shape, model):
    logits, _ = shapes(model, jnp.ones((2, *shape, 1)))
    assert logits.shape == (2, *shape, 1)


def test_a_sharp_network_takes_the_laplacian():
    """That of a parabola x^2 is -2, and 0 at the border; a slope has none."""
    model = PatchCNN(4, depth=1, sharpen=True)
    variables, inputs = random_variables(model), []

    def note(next_one, args, kwargs, context):
        if context.module.name == "norm_sharp" and context.method_name == "__call__":
            inputs.append(np.asarray(args[0])[0, ..., 0])
        return next_one(*args, **kwargs)

    row = jnp.arange(8.0)
    image = jnp.tile((row**2 / 49)[:, None], (1, 1, 8, 1)).reshape(1, 8, 8, 1)
    with nn.intercept_methods(note):
        model.apply(variables, image)
    (laplacian,) = inputs
    inside = np.zeros((8, 8), bool)
    inside[1:-1, 1:-1] = True
    np.testing.assert_allclose(laplacian[inside], -2 / 49 / image.std(), rtol=1e-4)
    assert not laplacian[~inside].any()


def test_patch_network_ignores_scale_and_offset():
    model = PatchCNN(4, depth=1)
    apply = jax.jit(partial(model.apply, random_variables(model)))
    np.testing.assert_allclose(apply(3 * IMAGE + 1), apply(IMAGE), atol=1e-4)
    flat = apply(jnp.full_like(IMAGE, 0.5))
    assert np.all(np.isfinite(flat))


def test_unet_padding_changes_nothing_away_from_the_edge():
    """A larger image whose sides fit gives the same logits away from its edge."""
    model = segjax.UNet(2, num_halvings=1)
    variables = random_variables(model)

    @jax.jit
    def whole_and_part(key):
        image = jax.random.uniform(key, (1, 64, 64, 1))
        return model.apply(variables, image), model.apply(variables, image[:, :47, :47])

    whole, part = whole_and_part(KEY)
    margin = model.receptive_field
    np.testing.assert_allclose(part[:, :-margin, :-margin], whole[:, : 47 - margin, : 47 - margin], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [segjax.UNet(4, num_halvings=1), PatchCNN(8, depth=2)], ids=str)
def test_learns_and_is_evaluated_by_its_running_statistics(model):
    options = {"batch_size": 4, "image_size": 32, "sigma": 6.4}
    loss = segjax.losses.binary_cross_entropy
    optimizer = segjax.schedules.scheduled(segjax.OPTIMIZERS["adam"], segjax.schedules.cosine, num_steps=150)
    train = segjax.make_train(model, optimizer=optimizer, loss=loss, num_steps=150, **options)
    state, _ = jax.jit(train)(KEY, 1e-2)
    evaluate = jax.jit(partial(segjax.evaluate, jax.random.key(7), model, num_batches=4, **options))
    assert segjax.metrics.accuracy(evaluate(state.variables)) > 0.8


@pytest.mark.parametrize("model", [*NETWORKS, *MORE_NETWORKS], ids=str)
def test_configuration_there_and_back(model):
    config = json.loads(json.dumps(to_config(model)))
    assert from_config(config) == model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config must name one of the networks SegmentationCNN, UNet, PatchCNN; got None"),
        ({"network": "ResNet"}, "got 'ResNet'"),
        ({"network": "UNet", "width": 3}, r"options that UNet does not have: \['width'\]"),
        ({"network": "UNet", "name": "a"}, r"options that UNet does not have: \['name'\]"),
        ({"network": ["UNet"]}, r"got \['UNet'\]"),
        ({"network": "UNet", "num_channels": "x"}, "config: num_channels must be an integer >= 1, got 'x'"),
        ({"network": "UNet", "num_halvings": -1}, "config: num_halvings must be an integer >= 0, got -1"),
        ({"network": "PatchCNN", "patch": 0}, "config: patch must be an integer >= 1, got 0"),
        ({"network": "PatchCNN", "patch": 65}, "config: patch must be an integer <= 64, got 65"),
        ({"network": "PatchCNN", "standardize": "no"}, "config: standardize must be True or False, got 'no'"),
        ({"network": "SegmentationCNN", "shared_norm": 1}, "config: shared_norm must be True or False, got 1"),
    ],
)
def test_refuses_other_configurations(config, message):
    with pytest.raises(ValueError, match=message):
        from_config(config)


@pytest.mark.parametrize(
    ("model", "name", "bound"),
    [
        (segjax.SegmentationCNN(num_channels=4097, kernel_size=1, depth=1), "num_channels", 4096),
        (segjax.SegmentationCNN(num_channels=1, kernel_size=256, depth=1), "kernel_size", 255),
        pytest.param(
            segjax.UNet(num_channels=1, kernel_size=1, num_halvings=9), "num_halvings", 8, marks=pytest.mark.slow
        ),
        pytest.param(
            segjax.SegmentationCNN(num_channels=1, kernel_size=1, depth=257), "depth", 256, marks=pytest.mark.slow
        ),
    ],
)
def test_only_files_have_the_bounds(model, name, bound):
    logits, _ = shapes(model)
    assert logits.shape == IMAGE.shape
    with pytest.raises(ValueError, match=f"config: {name} must be an integer <= {bound}, got {bound + 1}"):
        from_config(to_config(model))


@pytest.mark.parametrize("model", [nn.Dense(3), type("UNet", (segjax.UNet,), {})()], ids=["Dense", "another UNet"])
def test_refuses_to_describe_other_networks(model):
    with pytest.raises(ValueError, match="model must be one of: SegmentationCNN, UNet, PatchCNN; got "):
        to_config(model)


def test_refuses_to_describe_what_no_file_can_say():
    with pytest.raises(TypeError, match="num_channels must be an integer"):
        to_config(segjax.SegmentationCNN(num_channels=3.7))
    with pytest.raises(TypeError, match="shared_norm must be"):
        to_config(segjax.SegmentationCNN(shared_norm="no"))


def test_options_of_numpy_are_described_in_json_s_types():
    config = to_config(segjax.SegmentationCNN(np.int64(3), shared_norm=np.bool_(False)))
    assert from_config(json.loads(json.dumps(config))) == segjax.SegmentationCNN(3, shared_norm=False)


def test_a_table_of_nested_layers():
    params = {"block": {"conv": {"kernel": np.zeros((3, 3, 1, 2)), "bias": np.zeros(2)}}, "scale": np.zeros(5)}
    lines = segjax.parameter_table({"params": params}).splitlines()
    assert [line.split()[0] for line in lines] == ["block/conv", "scale", "total"]
    assert [line.split()[-1] for line in lines] == ["20", "5", "25"]
    with pytest.raises(TypeError, match="variables must be"):
        segjax.parameter_table(params)


def test_a_python_number_is_one_parameter():
    assert segjax.count_parameters({"params": {"a": 3}}) == 1
    assert segjax.parameter_table({"params": {"a": 3}}).splitlines()[-1].split() == ["total", "1"]


def test_each_halving_of_a_unet_doubles_the_channels_and_has_a_skip():
    _, variables = shapes(segjax.UNet(3, num_halvings=2))
    layers = {name: layer["kernel"].shape[2:] for name, layer in variables["params"].items() if "kernel" in layer}
    assert layers == {
        "conv_down0": (1, 3),
        "conv_down1": (3, 6),
        "conv_bottom1": (6, 12),
        "conv_bottom2": (12, 12),
        "conv_up1": (12 + 6, 6),
        "conv_up0": (6 + 3, 3),
        "out": (3, 1),
    }


def test_a_residual_layer_of_zeros_passes_its_input_on():
    model = PatchCNN(4, depth=1)
    variables = random_variables(model)
    variables["params"]["conv1"] = jax.tree.map(np.zeros_like, variables["params"]["conv1"])
    # One pixel of each inner square: without the sum only the biases would be left.
    assert np.ptp(model.apply(variables, IMAGE)[0, 4:-4:2, 4:-4:2]) > 1e-2
