"""The PyTorch backends: eager, compiled, and kornia's warp. Networks and their steps."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch  # pyrefly: ignore  # in the extra `bench`
import torch.nn.functional as F  # noqa: N812  # pyrefly: ignore
from torch import nn  # pyrefly: ignore

from experiments.benchmark.peer_worker import Backend, Program
from experiments.benchmark.torch_warps import (
    Compile,
    build_sampler,
    channels_first,
    kornia_warp,
    torch_warp,
    wait_for,
)
from experiments.benchmark.workloads import CLASSES, Arrays, Device, Job
from experiments.settings.machine import num_cores


def eager(device: Device) -> Backend:
    """Returns the backend of eager PyTorch."""
    return _backend(device, torch_warp, lambda function: function)


def compiled(device: Device) -> Backend:
    """Returns the backend of `torch.compile`."""
    return _backend(device, torch_warp, lambda function: torch.compile(function, dynamic=False))


def kornia(device: Device) -> Backend:
    """Returns the backend of kornia's warp."""
    return _backend(device, kornia_warp, lambda function: function, "kornia")


def _backend(
    device: Device, make_warp: Callable[..., Any], compile_function: Compile, *packages: str
) -> Backend:
    if device == "gpu" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no GPU")
    place = torch.device("cuda" if device == "gpu" else "cpu")
    torch.set_num_threads(num_cores())
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    name = torch.cuda.get_device_name() if device == "gpu" else "cpu"

    def build(job: Job, arrays: Arrays) -> Program:
        if job["kind"] == "sampler":
            return build_sampler(make_warp, compile_function, place, job, arrays)
        return _steps(compile_function, place, job, arrays)

    about = {"versions": versions, "device": name, "threads": torch.get_num_threads()}
    return Backend(about, build, clear=torch._dynamo.reset)


def _warp(image: Any, theta: Any, size: int) -> Any:
    grid = F.affine_grid(theta, [*image.shape[:2], size, size], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


class TorchTransformer(nn.Module):
    """A spatial transformer: a localisation network, the regression of theta, and the warp."""

    def __init__(self, localisation: Any, features: int) -> None:
        super().__init__()
        self.localisation = localisation
        self.regression = nn.Linear(features, 6)

    def forward(self, images: Any) -> Any:
        """Returns the warped images."""
        theta = self.regression(self.localisation(images)).view(-1, 2, 3)
        return _warp(images, theta, images.shape[-1])


class TorchUnsampledTransformer(TorchTransformer):
    """A transformer that adds the mean of theta to its image instead of sampling."""

    def forward(self, images: Any) -> Any:
        """Returns the images plus their offsets."""
        theta = self.regression(self.localisation(images))
        return images + theta.mean(1)[:, None, None, None]


class TorchInputOffset(nn.Module):
    """Adds a learned number to each image."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(batch, 1, 1, 1))

    def forward(self, images: Any) -> Any:
        """Returns the images plus their offsets."""
        return images + self.offset


def _block(inputs: int, filters: int, kernel_size: int) -> list[Any]:
    return [nn.Conv2d(inputs, filters, kernel_size), nn.MaxPool2d(2), nn.ReLU()]


def _dense_of_maps(channels: int, side: int, features: int) -> list[Any]:
    """Flattens feature maps for a dense layer, whose `maps` holds their shape for `_to_torch`."""
    layer = nn.Linear(channels * side * side, features)
    layer.maps = (channels, side, side)
    return [nn.Flatten(), layer]


def _cnn() -> Any:
    head = _dense_of_maps(32, 2, CLASSES)
    return nn.Sequential(*_block(1, 32, 9), *_block(32, 32, 7), *head)


def _cnn_localisation() -> Any:
    return nn.Sequential(
        nn.AvgPool2d(2),
        *_block(1, 20, 5),
        nn.Conv2d(20, 20, 5),
        nn.ReLU(),
        *_dense_of_maps(20, 1, 20),
        nn.GELU(approximate="tanh"),
    )


def _tutorial_localisation() -> Any:
    dense = _dense_of_maps(10, 3, 32)
    return nn.Sequential(*_block(1, 8, 7), *_block(8, 10, 5), *dense, nn.ReLU())


def _tutorial_classifier() -> Any:
    return nn.Sequential(
        *_block(1, 10, 5),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *_dense_of_maps(20, 4, 50),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(50, CLASSES),
    )


def _network(name: str, batch: int) -> Any:
    if name == "tutorial":
        return nn.Sequential(TorchTransformer(_tutorial_localisation(), 32), _tutorial_classifier())
    if name == "st_cnn":
        return nn.Sequential(TorchTransformer(_cnn_localisation(), 20), _cnn())
    if name == "st_cnn_unsampled":
        return nn.Sequential(TorchUnsampledTransformer(_cnn_localisation(), 20), _cnn())
    return nn.Sequential(TorchInputOffset(batch), _cnn()) if name == "cnn_offset" else _cnn()


_TRANSFORMER_LAYERS = (
    "stages_0/localisation/Conv_0",
    "stages_0/localisation/Conv_1",
    "stages_0/localisation/Dense_0",
    "stages_0/localisation_regression",
)
_CNN_LAYERS = ("ConvBlock_0/Conv_0", "ConvBlock_1/Conv_0", "Head_0/Dense_0")
# The path of each layer in the parameters of this project's networks, in PyTorch's order.
LAYERS = {
    "cnn": tuple(f"stages_0/{name}" for name in _CNN_LAYERS),
    "cnn_offset": tuple(f"stages_1/{name}" for name in _CNN_LAYERS),
    "st_cnn": (*_TRANSFORMER_LAYERS, *(f"stages_1/{name}" for name in _CNN_LAYERS)),
    "tutorial": (
        *_TRANSFORMER_LAYERS,
        *(f"stages_1/{name}" for name in ("ConvBlock_0/Conv_0", "Conv_0", "Dense_0")),
        "stages_1/Head_0/Dense_0",
    ),
}
LAYERS["st_cnn_unsampled"] = LAYERS["st_cnn"]


def _paths(name: str, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields the path, the tensor and the layer of each parameter."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for path, layer in zip(LAYERS[name], layers, strict=True):
        yield f"{path}/kernel", layer.weight, layer
        yield f"{path}/bias", layer.bias, layer
    for layer in model.modules():
        if isinstance(layer, TorchInputOffset):
            yield "stages_0/offset", layer.offset, layer


def _to_torch(array: np.ndarray, layer: Any) -> Any:
    """Converts a parameter of this project to the axis order of PyTorch."""
    if array.ndim == 4 and isinstance(layer, nn.Conv2d):
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2 and hasattr(layer, "maps"):
        c, h, w = layer.maps
        array = array.reshape(h, w, c, -1).transpose(3, 2, 0, 1).reshape(-1, c * h * w)
    elif array.ndim == 2:
        array = array.T
    return torch.from_numpy(array.copy())


def _from_torch(tensor: Any, layer: Any) -> np.ndarray:
    """Inverts `_to_torch`."""
    array = tensor.detach().cpu().numpy()
    if array.ndim == 4 and isinstance(layer, nn.Conv2d):
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and hasattr(layer, "maps"):
        c, h, w = layer.maps
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(c * h * w, -1)
    return array.T if array.ndim == 2 else array


class _Trainer:
    """A network with its optimizer and a batch."""

    def __init__(self, compile_function: Compile, place: Any, job: Job, arrays: Arrays) -> None:
        self._name = job["network"]
        self._model = _network(self._name, job["batch"])
        with torch.no_grad():
            for path, parameter, layer in _paths(self._name, self._model):
                parameter.copy_(_to_torch(arrays[f"params/{path}"], layer))
        self._model.to(place)
        self._forward = compile_function(self._model)
        self._optimizer = torch.optim.SGD(self._model.parameters(), job["learning_rate"])
        self._images = channels_first(arrays["images"], place)
        self._labels = torch.from_numpy(arrays["labels"]).long().to(place)

    def step(self) -> Any:
        """Does one training step and returns its loss."""
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self._forward(self._images), self._labels)
        loss.backward()
        self._optimizer.step()
        return loss

    def first_step(self) -> Arrays:
        """Does one step without dropout, undoes it, and returns its loss and gradients.

        The learning rate of this step is 1, so each parameter decreases by its gradient.
        """
        group = self._optimizer.param_groups[0]
        rate, group["lr"] = group["lr"], 1.0
        before = {name: value.clone() for name, value in self._model.state_dict().items()}
        start = {
            path: _from_torch(parameter, layer).copy()
            for path, parameter, layer in _paths(self._name, self._model)
        }
        self._model.eval()
        loss = self.step()
        changes = {
            path: start[path] - _from_torch(parameter, layer)
            for path, parameter, layer in _paths(self._name, self._model)
        }
        self._model.load_state_dict(before)
        self._model.train()
        group["lr"] = rate
        return {"loss": loss.detach().cpu().numpy()} | changes


def _steps(compile_function: Compile, place: Any, job: Job, arrays: Arrays) -> Program:
    """Builds a program of training steps; members are trained one after another."""
    members = job["members"]
    parts = [{name: array[i] for name, array in arrays.items()} for i in range(members)]
    trainers = [_Trainer(compile_function, place, job, part) for part in parts or [arrays]]

    def values() -> Arrays:
        found = [trainer.first_step() for trainer in trainers]
        if not members:
            return found[0]
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    return Program(values, lambda: [trainer.step() for trainer in trainers], wait_for(place))
