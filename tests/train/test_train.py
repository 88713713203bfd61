"""`fnconv train`: the network, the descent, the figure and the command."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import small_data, small_run
from test_idx import write_set

import fnconv.cli
from fnconv.train.data import Data, load_digits, shift_images
from fnconv.train.lenet import LAYERS, SHAPES, init, logits
from fnconv.train.loop import batches, fit, step
from fnconv.train.plot import check_plot, save_plot
from fnconv.train.run import Config, Copy, Run

MODELS = ["classic", "modern"]

# ---- the network ----------------------------------------------------------------------------------------------------


def test_lenet_has_the_layers_of_the_paper():
    # LeCun et al. (1998), section II.B; C3 is connected to every map of S2, so it has 2,416 weights and not 1,516.
    params = init("classic", 0)
    count = {}
    for name, value in params.items():
        layer = name.split(".")[0]
        count[layer] = count.get(layer, 0) + value.size
    assert count == {"c1": 156, "c3": 2416, "c5": 48120, "f6": 10164, "output": 850}
    shape = jax.eval_shape(lambda x: logits(LAYERS["classic", "manual"], params, x), jnp.zeros((3, 28, 28, 1)))
    assert shape.shape == (3, 10)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_a_function_of_the_seed(model):
    first, again, other = init(model, 7), init(model, 7), init(model, 8)
    assert {name: value.shape for name, value in first.items()} == SHAPES
    for name in ("c1.w", "f6.w"):
        np.testing.assert_array_equal(first[name], again[name])
        assert np.any(np.asarray(first[name]) != np.asarray(other[name]))
    deviation = float(jnp.std(first["c5.w"]))
    assert deviation == pytest.approx(math.sqrt({"classic": 1, "modern": 2}[model] / 400), rel=0.02)


def outside_of_rules(jaxpr):
    """The primitives that a program calls, looking into jit but not into custom_vjp."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield from outside_of_rules(equation.params["jaxpr"]) if name == "jit" else (name,)


@pytest.mark.parametrize("model", MODELS)
def test_every_derivative_of_the_manual_network_is_a_rule_of_fnconv(model):
    layers = LAYERS[model, "manual"]
    network = jax.make_jaxpr(lambda params, x: logits(layers, params, x))(init(model, 0), jnp.zeros((2, 28, 28, 1)))
    assert set(outside_of_rules(network)) == {"custom_vjp_call"}
    loss = jax.make_jaxpr(layers.loss)(jnp.zeros((2, 10)), jnp.zeros(2, jnp.int32))
    assert "custom_vjp_call" in set(outside_of_rules(loss))


@pytest.mark.parametrize("model", MODELS)
def test_manual_and_automatic_gradients_agree(model):
    with jax.enable_x64(True):
        params = {name: value.astype(jnp.float64) for name, value in init(model, 1).items()}
        random = np.random.default_rng(2)
        images, labels = jnp.asarray(random.standard_normal((4, 28, 28, 1))), jnp.arange(4)

        def gradient(kind):
            layers = LAYERS[model, kind]
            return jax.grad(lambda p: layers.loss(logits(layers, p, images), labels).sum())(params)

        manual, autodiff = jax.jit(lambda: (gradient("manual"), gradient("autodiff")))()
    for name in SHAPES:
        scale = float(np.abs(autodiff[name]).max())
        assert scale > 0
        assert float(np.abs(manual[name] - autodiff[name]).max()) <= 1e-13 * scale, name


# ---- the descent ----------------------------------------------------------------------------------------------------


def test_a_step_is_descent_with_momentum():
    data = small_data()
    images, labels = jnp.asarray(data.train_images[:16]), jnp.asarray(data.train_labels[:16])
    layers = LAYERS["classic", "manual"]
    params = init("classic", 0)
    rest = {name: jnp.zeros_like(value) for name, value in params.items()}
    # At the rate 0 the velocity after one step from rest is the gradient of the mean loss, and the weights stay.
    unmoved, loss, right = step(Copy(params, rest), images, labels, 0.0, 0.5, layers=layers)
    gradient = unmoved.velocity
    # The bias of the output has the gradient mean(softmax - one-hot), whatever is below it.
    predicted = jax.jit(logits, static_argnums=0)(layers, params, images)
    expected = (jax.nn.softmax(predicted) - jax.nn.one_hot(labels, 10)).mean(0)
    np.testing.assert_allclose(gradient["output.b"], expected, atol=1e-6)
    assert float(loss) == pytest.approx(
        float(-jnp.sum(jax.nn.log_softmax(predicted)[jnp.arange(16), labels])), rel=1e-5
    )
    assert int(right) == int((predicted.argmax(-1) == labels).sum())
    moved, _, _ = step(Copy(params, gradient), images, labels, 0.25, 0.5, layers=layers)
    for name in SHAPES:
        np.testing.assert_array_equal(unmoved.params[name], params[name])
        np.testing.assert_allclose(moved.velocity[name], 1.5 * gradient[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moved.params[name], params[name] - 0.375 * gradient[name], rtol=1e-5, atol=1e-7)


def test_every_step_has_one_shape_and_is_traced_once():
    data = small_data()
    run = Run.start(Config(batch_size=16), data)
    assert [images.shape for images, _ in batches(run, data)] == [(16, 28, 28, 1)] * 2  # 8 of 40 sit the epoch out
    traces = []
    layers = LAYERS["classic", "autodiff"]
    counted = layers._replace(flatten=lambda x: traces.append(x.shape) or layers.flatten(x))
    copy = run.copies["manual"]
    for rate in (0.1, 0.05):
        for images, labels in batches(run, data):
            copy, _, _ = step(copy, images, labels, rate, 0.9, layers=counted)
    assert len(traces) == 1


def test_the_order_is_a_function_of_the_seed_and_the_epoch():
    data = small_data()

    def order(seed, epoch):
        run = small_run(epochs=epoch)
        run = Run(Config(seed=seed, batch_size=16, shift=1), run.data, run.copies, run.history)
        return np.concatenate([np.ravel(images) for images, _ in batches(run, data)]).tobytes()

    assert order(0, 1) == order(0, 1)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


def test_images_are_shifted_as_a_whole_onto_background():
    images = np.zeros((50, 28, 28, 1), np.float32)
    images[:, 14, 10] = 1
    moved = shift_images(images, 2, np.random.default_rng(0))
    places = np.argwhere(moved == 1)
    assert len(places) == 50
    assert {tuple(place) for place in (places[:, 1:3] - (14, 10)).tolist()} <= {
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    }
    assert (np.ptp(places[:, 1]), np.ptp(places[:, 2])) == (4, 4)
    assert set(np.unique(moved)) == {np.float32(-0.1), 0, 1}
    np.testing.assert_array_equal(shift_images(images, 0, np.random.default_rng(0)), images)


def test_both_copies_see_the_same_and_stay_within_roundings():
    data = small_data()
    run = Run.start(Config(gradients="both", batch_size=16), data)
    seen = []
    for run in fit(run, data, 2, seen.append):  # noqa: B020
        drift = run.history[-1].drift
        assert 0 < drift.max_abs < 1e-5
        assert 0 < drift.relative_l2 < 1e-5
    assert [set(metrics) for metrics in seen] == [{"manual", "autodiff"}] * 4


def test_a_loss_that_is_not_finite_ends_the_run():
    data = small_data()
    run = Run.start(Config(batch_size=16, learning_rate=1e38), data)
    with pytest.raises(FloatingPointError, match="for the loss to stay finite; got 1e"):
        list(fit(run, data, 9))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", "alexnet"),
        ("gradients", "none"),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("decay", -1.0),
        ("momentum", 1.0),
        ("shift", 28),
        ("seed", -1),
    ],
)
def test_a_bad_option_is_refused(option, value):
    with pytest.raises(ValueError, match=f"Config: {option} must be .*; got {value!r}"):
        Config(**{option: value})


def test_epochs_and_batch_size_must_fit_the_run():
    data = small_data()
    with pytest.raises(ValueError, match="fit: epochs must be more than the 2 that the run has done; got 2"):
        fit(small_run(), data, 2)
    with pytest.raises(ValueError, match="batch_size must be at most the number of training images, 40; got 64"):
        fit(Run.start(Config(batch_size=64), data), data, 2)


# ---- the digits -----------------------------------------------------------------------------------------------------


def test_the_split_of_the_digits_is_stratified_and_disjoint():
    data = load_digits()
    assert data.train_images.shape == (1437, 28, 28, 1)
    assert data.test_images.shape == (360, 28, 28, 1)
    assert (np.bincount(data.test_labels) >= 34).all()
    assert not {image.tobytes() for image in data.train_images} & {image.tobytes() for image in data.test_images}
    assert data.train_images.min() == pytest.approx(-0.1)
    assert data.train_images.max() == pytest.approx(1.175)


def test_three_epochs_learn():
    data = load_digits()
    *_, run = fit(Run.start(Config(), data), data, 3)
    assert run.history[-1].metrics["manual"].test_accuracy > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_defaults_reach_98_percent(seed):
    data = load_digits()
    *_, run = fit(Run.start(Config(seed=seed), data), data, 20)
    assert run.history[-1].metrics["manual"].test_accuracy >= 0.98


# ---- the figure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("A.PDF", b"%PDF")])
def test_the_figure_is_written_in_the_format_of_its_name(tmp_path, name, start):
    path = tmp_path / name
    check_plot(path)
    save_plot(path, small_run("both" if name == "a.png" else "manual"))
    assert path.read_bytes().startswith(start)


def test_a_figure_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .png, .svg, .pdf; got .*a.docx"):
        check_plot(tmp_path / "a.docx")
    with pytest.raises(ValueError, match="path must be a file in an existing directory"):
        check_plot(tmp_path / "nowhere" / "a.png")


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `fnconv train` on small files; returns its status, output and errors."""
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(fnconv.cli.interrupts, "handle", lambda command: None)

    def run(*options, data=True):
        where = ("--data", ".", "--batch-size", "16") if data else ()
        monkeypatch.setattr(sys, "argv", ["fnconv", "train", *where, *options])
        with pytest.raises(SystemExit) as exit_:
            fnconv.cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


def test_train_trains_plots_saves_and_resumes(command, tmp_path):
    status, out, _ = command("--epochs", "1", "--plot", "a.png", "--save", "half")
    assert status == 0
    assert out.startswith("epoch 1 of 1: manual train loss ")
    assert "of the test images right" in out
    assert (tmp_path / "a.png").exists()
    assert command("--epochs", "2", "--resume", "half", "--save", "resumed")[0] == 0
    assert command("--epochs", "2", "--save", "whole")[0] == 0
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_both_shows_the_drift_and_says_why(command):
    status, out, _ = command("--epochs", "2", "--gradients", "both")
    assert status == 0
    assert "drift rel.L2" in out
    assert "not associative" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--momentum", "1"), "--momentum must be at least 0 and less than 1; got 1.0"),
        (("--epochs", "0"), "--epochs must be more than the 0 that the run has done; got 0"),
        (("--data", "nowhere"), "--data must be a directory of IDX files; got nowhere"),
        (("--plot", "a.docx"), "--plot must end in .png, .svg, .pdf; got a.docx"),
        (("--save", "nowhere/a"), "--save must be a file in an existing directory; got nowhere/a"),
        (("--resume", "t10k-labels-idx1-ubyte"), "--resume: t10k-labels-idx1-ubyte must be a whole safetensors file"),
        (("--learning-rate", "1e38"), "--learning-rate must be small enough for the loss to stay finite; got 1e+38"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(command, options, message):
    status, _, err = command(*options)
    assert status == 2
    assert err.startswith("fnconv train: ")
    assert message in err
    assert err.count("\n") == 1


def test_unknown_words_end_with_status_2(command):
    assert command("--gradients", "magic")[0] == 2
    assert command("--colour")[0] == 2


def test_an_option_that_contradicts_the_checkpoint_is_refused(command):
    assert command("--epochs", "1", "--save", "half")[0] == 0
    status, _, err = command("--resume", "half", "--seed", "4")
    assert status == 2
    assert "--seed must be 0, as in half, or left out; got 4" in err
    status, _, err = command("--resume", "half", "--epochs", "1")
    assert "--epochs must be more than the 1 that the run has done; got 1" in err


@pytest.mark.parametrize(
    ("module", "options", "data"),
    [("sklearn", (), False), ("matplotlib", ("--plot", "a.png"), True), ("safetensors", ("--save", "a"), True)],
)
def test_a_missing_package_is_named_with_its_extra(command, monkeypatch, module, options, data):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("checkpoint", "plot"):
        monkeypatch.delitem(sys.modules, f"fnconv.train.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = command(*options, data=data)
    assert status == 2
    assert "is not installed: pip install 'fnconv[train]'" in err


def test_without_the_cli_extra_the_command_names_it(command, monkeypatch):
    for name in ("app", "train"):
        monkeypatch.delitem(sys.modules, f"fnconv.cli.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    status, _, err = command()
    assert status == 2
    assert err == "fnconv: the command line needs typer: pip install 'fnconv[cli]'\n"


def test_data_is_known_by_its_digest():
    data = small_data()
    swapped = Data(data.train_images, data.train_labels[::-1], data.test_images, data.test_labels)
    assert data.digest() == small_data().digest() != swapped.digest()
