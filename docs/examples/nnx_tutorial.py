"""The network of PyTorch's tutorial on spatial transformers, in Flax NNX, trained on MNIST.

The settings are the tutorial's: plain SGD with a learning rate of 0.01, batches of 64, 20 epochs,
and no distortion. One epoch takes about 20 s on two CPU cores.

    python docs/examples/nnx_tutorial.py --data-dir DIR

DIR contains `mnist/` with the four original files. `--dataset digits` needs no files: it trains on
the small digits of scikit-learn.
"""

import argparse
import collections
import functools
import math
import sys
import time

import jax
import optax
from flax import nnx

from experiments import datasets
from experiments.settings.errors import UserError, run_command
from stn_jax import training, transforms
from stn_jax.nnx import (
    SpatialTransformer,
    SpatialTransformerNetwork,
    TutorialClassifier,
    TutorialLocalisationNetwork,
)

IMAGE_SHAPE = (28, 28, 1)
MEAN, STD = 0.1307, 0.3081  # of MNIST's training images
BATCH_SIZE, LEARNING_RATE = 64, 0.01
AVERAGED_EPOCHS = 10


# --- The network ----------------------------------------------------------------------------------


def make_model(rngs: nnx.Rngs) -> nnx.Module:
    """An affine transformer in front of a small convolutional network."""
    transformer = SpatialTransformer(
        TutorialLocalisationNetwork(IMAGE_SHAPE, rngs=rngs),
        transforms.affine,
        fill=-MEAN / STD,  # the outside of a normalised image has the value of its background
        rngs=rngs,
    )
    model = SpatialTransformerNetwork((transformer, TutorialClassifier(IMAGE_SHAPE, rngs=rngs)))
    for path, layer in nnx.iter_modules(model):
        # The weights are drawn as in PyTorch. The biases are 0, but PyTorch draws them too, except
        # for the layer that regresses theta.
        if isinstance(layer, nnx.Conv | nnx.Linear) and "localisation_regression" not in path:
            limit = math.prod(layer.kernel.shape[:-1]) ** -0.5
            shape = layer.bias.shape
            layer.bias[...] = jax.random.uniform(rngs(), shape, minval=-limit, maxval=limit)
    return model


def make_apply(graph: nnx.GraphDef):
    """The network as a pure function. The variables are the random numbers of dropout."""

    def apply(params, images, key, variables):
        model = nnx.merge(graph, params, variables, copy=True)
        if key is None:
            model.eval()  # no dropout
        return model(images), nnx.state(model, nnx.Not(nnx.Param))

    return apply


# --- The data -------------------------------------------------------------------------------------


def load(dataset: str, data_dir: str | None):
    """The training and test examples, images as stored: uint8 `[n, 28, 28, 1]`."""
    if dataset == "mnist" and data_dir is None:
        raise UserError(
            "--data-dir must be a folder that contains mnist/train-images-idx3-ubyte.gz and the "
            "three other files of MNIST, which is published by LeCun and Cortes; got none "
            "(--dataset digits needs no files)"
        )
    found = datasets.load(dataset, data_dir=data_dir, validation_size=0)
    return [{"image": each.images, "label": each.labels} for each in (found.train, found.test)]


def normalise(keys, batch):
    """Applied to each batch, on the device."""
    return batch | {"image": (batch["image"] / 255.0 - MEAN) / STD}


# --- Training -------------------------------------------------------------------------------------


def train(dataset: str, data_dir: str | None, epochs: int, seed: int) -> None:
    """Trains, and prints the accuracy on the test set after each epoch.

    At a constant learning rate, the accuracy varies from epoch to epoch. So it is also printed for
    the mean of the parameters after the last epochs, which the tutorial does not compute.
    """
    train_data, test_data = jax.device_put(load(dataset, data_dir))
    graph, params, variables = nnx.split(make_model(nnx.Rngs(seed)), nnx.Param, ...)

    objective = training.classification(make_apply(graph))
    optimizer = optax.sgd(LEARNING_RATE)
    fit = functools.partial(training.fit, objective, optimizer, normalise)
    fit = jax.jit(functools.partial(fit, num_epochs=1, batch_size=BATCH_SIZE))
    evaluate = jax.jit(functools.partial(training.evaluate, objective, normalise))

    key = jax.random.key(seed)
    state = training.init_state(key, params, optimizer, variables)

    def accuracy(params) -> float:
        means = evaluate(key, params, test_data, variables=state.variables)
        return 100 * (1 - float(means["error"]))

    started, last = time.perf_counter(), collections.deque(maxlen=AVERAGED_EPOCHS)
    for epoch in range(1, epochs + 1):
        state, history = fit(state, train_data)
        if state.diverged:
            raise UserError(f"--seed {seed}: the training diverged at step {int(state.step) + 1}")
        last.append(state.params)
        loss, found = float(history["loss"].mean()), accuracy(state.params)
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch:2}: loss {loss:.4f}, test accuracy {found:.2f} %, {seconds:.0f} s",
            flush=True,
        )
    averaged = jax.tree.map(lambda *each: sum(each) / len(each), *last)
    print(f"mean of the parameters of {len(last)} epochs: test accuracy {accuracy(averaged):.2f} %")


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--dataset", choices=("mnist", "digits"), default="mnist")
    parser.add_argument("--data-dir", help="the folder that contains mnist/")
    parser.add_argument("--epochs", type=int, choices=range(1, 1001), metavar="N", default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    return run_command(lambda: train(**options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
