"""What is wrong with an array that was given as images, in one line with the way to mend it.

Legend: N images, H height, W width, C channels.
"""

from pathlib import Path

import numpy as np

from evalsuite.artifacts.samples.zip_arrays import ZipArray, array_names, zip_array
from evalsuite.errors import DataError

_PEEK_BYTES = 16 << 20
_MOMENTS = {"mu", "sigma"}
_SHOWN = 12


def fault_of_images(array: ZipArray) -> str | None:
    """Why an array is not uint8 [N,H,W,3] in C order; None when it is."""
    if array.dtype.hasobject:
        return "holds pickled objects, which are never loaded: save one uint8 array of images"
    if len(array.shape) == 4 and array.shape[0] == 0:
        return f"holds 0 images (its shape is {array.shape})"
    fault = _fault_of_shape(array.shape) or _fault_of_dtype(array)
    if fault is None and array.fortran:
        return "is stored in Fortran order: save np.ascontiguousarray(images)"
    return fault


def missing_images(path: Path) -> str:
    """What to say of an NPZ without `arr_0`: what it holds, and what that may be."""
    names = array_names(path)
    if set(names) >= _MOMENTS:
        return (
            f"{path} is a statistics file (mu, sigma) without images: give it as --reference,"
            " and an NPZ with arr_0 or a folder of images as samples"
        )
    listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    text = f"{path} has no arr_0 (images); it holds {listed or 'nothing'}"
    images = [name for name in names[:_SHOWN] if _is_images(path, name)]
    if len(images) == 1:
        name = images[0]
        text += f": if {name!r} is them, save it as arr_0: np.savez(path, np.load(old)[{name!r}])"
    return text


def _is_images(path: Path, name: str) -> bool:
    try:
        array = zip_array(path, name)
    except DataError:
        return False
    return len(array.shape) == 4 and array.dtype == np.uint8


def _fault_of_shape(shape: tuple[int, ...]) -> str | None:
    wanted = "images must be uint8 of shape (N, H, W, 3)"
    if len(shape) == 3 and shape[2] == 3:
        return f"has shape {shape}, which looks like a single image: {wanted}, so use images[None]"
    if len(shape) == 3:
        return f"has shape {shape}, which looks like N,H,W without colours: {wanted}"
    if len(shape) != 4:
        return f"has shape {shape}: {wanted}"
    if 0 in shape:
        return f"has shape {shape}, which holds no pixel: {wanted}"
    if shape[3] == 3:
        return None
    if shape[1] == 3:
        return f"has shape {shape}, which looks like N,C,H,W: transpose it (0, 2, 3, 1)"
    channels = min(shape[1], shape[3]) if min(shape[1], shape[3]) in {1, 4} else shape[3]
    kind = {1: "greyscale", 4: "RGB with alpha"}.get(channels, f"{channels} channels")
    return f"has shape {shape}, which looks like {kind} and not RGB: {wanted}"


def _fault_of_dtype(array: ZipArray) -> str | None:
    dtype = array.dtype
    if dtype == np.uint8:
        return None
    if dtype.kind not in "iuf":
        return f"is {dtype}, but pixels must be uint8"
    low, high = _extent(array)
    if np.isnan(low):
        return f"is {dtype} and holds NaN in its first images: pixels must be uint8, 0 to 255"
    seen = f"is {dtype} with values from {low:g} to {high:g} in its first images"
    if dtype.kind in "iu":
        inside = low >= 0 and high <= 255
        advice = "images.astype(np.uint8)" if inside else "they do not fit into 8 bits"
        return f"{seen}, but pixels must be uint8: {advice}"
    if low >= 0 and high <= 1:
        return f"{seen}, so in [0, 1], but pixels must be uint8: {_formula('images * 255')}"
    if low >= -1 and high <= 1:
        shown = _formula("(images + 1) * 127.5")
        return f"{seen}, so in [-1, 1], but pixels must be uint8: {shown}"
    if low >= 0 and high <= 255:
        return f"{seen}, so in [0, 255], but pixels must be uint8: {_formula('images')}"
    return f"{seen}, which are no pixels: they must be uint8, 0 to 255"


def _formula(values: str) -> str:
    return f"({values}).round().clip(0, 255).astype(np.uint8), or as your model's authors round"


def _extent(array: ZipArray) -> tuple[float, float]:
    """Least and largest value of the first images; NaN when one is there."""
    size = array.dtype.itemsize
    num = min(_PEEK_BYTES, array.value_bytes) // size * size
    values = np.frombuffer(array.head(num), array.dtype)
    return float(values.min()), float(values.max())
