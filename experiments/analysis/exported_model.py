"""A trained network as files that JAX reads without this project.

Parameters are stored once, as safetensors. The functions take them as an argument. There is an
artefact of `jax.export` for each function and dtype of the images, for any number of images.
"""

from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from experiments.analysis.inference import NetworkArrays
from experiments.analysis.loaded_model import LoadedModel
from experiments.runs.records import provenance, to_json

PLATFORMS = ("cpu", "cuda", "tpu")
PARAMS_FILE, MODEL_FILE, README_FILE = "params.safetensors", "model.json", "README.md"

FlatParams = dict[str, Any]
"""The arrays of a network by their path, such as `params/stages_0/Conv_0/kernel`."""


def export_model(model: LoadedModel) -> dict[str, bytes]:
    """Exports a network.

    Returns:
        The content of each file, by name.
    """
    params = flatten_arrays(model.arrays)
    functions = {"predict": _predict(model)} | ({"warp": _warp(model)} if model.transforms else {})
    artefacts = {
        f"{name}_{dtype}.jax_export": _serialise(function, params, model.image_shape, dtype)
        for name, function in functions.items()
        for dtype in model.image_dtypes
    }
    texts = {
        MODEL_FILE: to_json(describe_model(model), indent=2) + "\n",
        README_FILE: readme(model),
    }
    return {
        PARAMS_FILE: save(params),
        **artefacts,
        **{name: text.encode() for name, text in texts.items()},
    }


def flatten_arrays(arrays: NetworkArrays) -> dict[str, np.ndarray]:
    """The arrays of a network by their path."""
    flat = traverse_util.flatten_dict(jax.device_get(dict(arrays)), sep="/")
    return {name: np.ascontiguousarray(each) for name, each in flat.items()}


def _predict(model: LoadedModel) -> Any:
    def predict(params: FlatParams, images: jax.Array) -> jax.Array:
        arrays = traverse_util.unflatten_dict(params, sep="/")
        return model.inference.probabilities(arrays, images)

    return predict


def _warp(model: LoadedModel) -> Any:
    def warp(params: FlatParams, images: jax.Array) -> tuple[Any, Any]:
        frames = model.inference.frames(traverse_util.unflatten_dict(params, sep="/"), images)
        thetas = tuple(frame.theta for frame in frames)
        warped = tuple(model.straighten_batch(images, *thetas))
        return (thetas[0], warped[0]) if len(frames) == 1 else (thetas, warped)

    return warp


def _serialise(function: Any, params: FlatParams, shape: tuple[int, ...], dtype: str) -> bytes:
    """The artefact of a function of parameters and a batch of images of any size."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in params.items()}
    images = jax.ShapeDtypeStruct((batch, *shape), dtype)
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, images)
    return bytes(exported.serialize())


def describe_model(model: LoadedModel) -> dict[str, Any]:
    """Describes inputs and outputs for `model.json`."""
    return {
        "class_names": model.class_names,
        "image_shape": model.image_shape,
        "image_dtypes": model.image_dtypes,
        "frames": model.frame_settings,
        "platforms": PLATFORMS,
        "versions": provenance()["versions"],
    }


def readme(model: LoadedModel) -> str:
    """The text that shows how to load the files without this project."""
    versions, dtype = provenance()["versions"], model.image_dtypes[0]
    has_warp = bool(model.transforms)
    return README.format(
        title=f"{model.config.model.model} trained on {model.config.data.dataset}",
        dtype=dtype,
        shape=", ".join(map(str, model.image_shape)),
        warp=WARP.format(dtype=dtype) if has_warp else "",
        images=BYTES_OR_FLOATS if "uint8" in model.image_dtypes else FLOATS,
        about_warp=ABOUT_WARP if has_warp else "",
        project=versions["stn-jax"],
        jax=versions["jax"],
    )


README = """\
# {title}

A trained network, exported by stn-jax {project} with jax {jax}. To load it, install `jax`,
`safetensors` and `flatbuffers`.

```python
import json
import pathlib

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path(".")  # this folder
images = np.zeros((1, {shape}), np.{dtype})  # your images


def load(name):
    return jax.jit(export.deserialize(bytearray((folder / name).read_bytes())).call)


params = load_file(folder / "params.safetensors")
class_names = json.loads((folder / "model.json").read_text())["class_names"]
probabilities = load("predict_{dtype}.jax_export")(params, images)  # [n, classes]
classes = [class_names[i] for i in np.argmax(probabilities, axis=1)]
{warp}```

- Images are `[n, {shape}]`, n at least 1: {images}. They are normalised, but never distorted.
{about_warp}\
- The functions run on CPU, CUDA and TPU, with this version of JAX and those of the next six
  months. For later versions, export the run again.
"""

BYTES_OR_FLOATS = "uint8, or float32 in [0, 1] for `..._float32.jax_export`"
FLOATS = "float32 with the scale of the training images"

WARP = """\
theta, warped = load("warp_{dtype}.jax_export")(params, images)
"""

ABOUT_WARP = """\
- `theta`, `[n, parameters]`, maps points of the output to points of the image; `frames` in
  `model.json` describes it. `warped` has the dtype and scale of the images. If `frames` has several
  entries, both are tuples.
"""
