"""NumPy arrays of the user's: one ``.npz``, or two ``.npy`` of which the inputs may be larger than memory.

Pickled objects are never loaded, since loading them runs code. What training would only meet after hours (a NaN in the
last row, a label out of place) is found before the run starts, file and row named.
"""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from distmlp.data.dataset import DataSet, Split, Task, TensorSplit, content_fingerprint, split_rows
from distmlp.data.normalize import PART_ELEMENTS, Normalisation, fit_normalisation
from distmlp.errors import ConfigError

_NPY_MAGIC = b"\x93NUMPY"
_UNREADABLE = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MappedSplit:
    """Rows of a memory-mapped ``.npy`` file. targets of the whole set: (N,) int64 or (N, outputs) float32."""

    path: Path
    targets: Tensor
    rows: Tensor
    normalisation: Normalisation | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inputs", np.load(self.path, mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        # A data worker that is sent this split maps the file itself; pickling the map would send the whole file.
        return MappedSplit, (self.path, self.targets, self.rows, self.normalisation)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (len(positions), *input_shape) float32, normalised, and targets; reads those rows only."""
        rows = self.rows[positions]
        inputs = torch.from_numpy(cast(Any, self)._inputs[rows.numpy()].astype(np.float32))
        return self.normalisation.apply(inputs) if self.normalisation else inputs, self.targets[rows]

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Rows of the file, int64, (len(positions),)."""
        return self.rows[positions]


def load_arrays(
    *,
    inputs: str,
    targets: str | None,
    inputs_key: str = "inputs",
    targets_key: str = "targets",
    task: Task,
    memory_limit_bytes: int = 2**30,
    validation_fraction: float,
    test_fraction: float,
    split_seed: int,
    normalize: bool,
) -> DataSet:
    """Inputs (N, *input_shape) of any real type, as float32; targets (N,) labels, or (N,) or (N, outputs) numbers.

    Args:
        inputs: ``.npz`` file with both arrays, or ``.npy`` file.
        targets: ``.npy`` file; None with an ``.npz``.
        inputs_key: name of the inputs in an ``.npz``.
        targets_key: name of the targets in an ``.npz``.
        task: ``classification`` (number of classes: largest label + 1) or ``regression`` (targets stay as they are).
        memory_limit_bytes: ``.npy`` inputs that take more as float32 stay on disk, memory-mapped.
        validation_fraction: share of all samples that validate.
        test_fraction: share of all samples that test.
        split_seed: seed of the split.
        normalize: subtract the mean and divide by the standard deviation of the training split, for each feature.

    Raises:
        ConfigError: a file or key is missing, an array is malformed, empty or holds what cannot be trained on, or a
            split would be empty.
    """
    path = Path(inputs).expanduser()
    (x, x_name), (y, y_name) = _open_pair(path, targets, inputs_key, targets_key)
    _check_shapes(x, x_name, y, y_name)
    mapped = isinstance(x, np.memmap) and 4 * x.size > memory_limit_bytes
    title = path.name if mapped else None
    _check_finite(x, x_name, title)
    _check_finite(y, y_name, None)
    converted, num_outputs, notes = (_class_labels if task == "classification" else _numbers)(y, y_name)
    rows = split_rows(
        len(x), validation_fraction=validation_fraction, test_fraction=test_fraction, seed=split_seed, source=x_name
    )
    fit = None
    if normalize:
        fit = fit_normalisation(x, rows[0], per_feature=True, progress_title=title and f"{title}: mean, std")
    train, validation, test = _splits(x, converted, rows, fit, path if mapped else None)
    fingerprint, shape = _fingerprint(x, y, title), tuple(x.shape[1:])
    return DataSet(path.stem, task, shape, num_outputs, train, validation, test, fingerprint, notes)


def _open_pair(path: Path, targets: str | None, *keys: str) -> tuple[tuple[Array, str], tuple[Array, str]]:
    """Inputs and targets, each with the name that messages call it by."""
    if path.suffix not in (".npz", ".npy"):
        raise ConfigError(f"{path}: data.inputs is expected to be an .npz or .npy file")
    if path.suffix == ".npy" and targets is None:
        raise ConfigError(f"{path}: data.targets is not set; an .npy file of inputs needs an .npy file of targets")
    if path.suffix == ".npz" and targets is not None:
        raise ConfigError(f"{path}: an .npz file holds the targets too; leave data.targets ({targets}) unset")
    if targets is None:
        inputs, labels = (_open_npz(path, key) for key in keys)
        return (inputs, f"{path}: {keys[0]}"), (labels, f"{path}: {keys[1]}")
    other = Path(targets).expanduser()
    return (_open_npy(path), str(path)), (_open_npy(other), str(other))


def _open_npy(path: Path) -> Array:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
                raise ConfigError(f"{path}: not an .npy file (it does not begin with the bytes of one)")
        return _checked(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error


def _open_npz(path: Path, key: str) -> Array:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"{path}: not an .npz file, or a truncated one")
        with np.load(path, allow_pickle=False) as archive:
            if key not in archive.files:
                raise ConfigError(f"{path}: no array {key!r}; it holds {', '.join(archive.files) or 'nothing'}")
            return _checked(archive[key], f"{path}: {key}")
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(f"{path}: {key}", error) from error


def _unreadable(name: str, error: BaseException) -> ConfigError:
    if "object" in str(error).lower():
        return ConfigError(f"{name}: an object array (pickled Python objects), which is never loaded; expected numbers")
    return ConfigError(f"{name}: cannot be read: {' '.join(str(error).split())}")


def _checked(array: Array, name: str) -> Array:
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{name}: elements of type {array.dtype} found, expected real numbers")
    if array.ndim == 0 or array.size == 0:
        raise ConfigError(f"{name}: shape {array.shape} found, expected at least one sample of at least one element")
    return array


def _check_shapes(inputs: Array, inputs_name: str, targets: Array, targets_name: str) -> None:
    if inputs.ndim < 2:
        raise ConfigError(f"{inputs_name}: shape {inputs.shape} found, expected (samples, features, …)")
    if len(inputs) != len(targets):
        raise ConfigError(
            f"{targets_name}: {len(targets)} targets found, expected {len(inputs)}, one for each row of {inputs_name}"
        )


def _check_finite(array: Array, name: str, progress_title: str | None) -> None:
    if array.dtype.kind != "f":
        return
    step = max(1, PART_ELEMENTS // array[:1].size)
    num_bad, first = 0, -1
    starts = range(0, len(array), step)
    for start in tqdm(starts, desc=f"{progress_title}: check", disable=None if progress_title else True):
        with np.errstate(over="ignore"):
            part = array[start : start + step].astype(np.float32)
        bad = ~np.isfinite(part.reshape(len(part), -1)).all(axis=1)
        if bad.any():
            first = first if num_bad else start + int(bad.argmax())
            num_bad += int(bad.sum())
    if num_bad:
        raise ConfigError(
            f"{name}: NaN, infinite or beyond float32 in {num_bad} of {len(array)} rows (the first is row {first}), "
            "expected finite numbers"
        )


def _class_labels(values: Array, name: str) -> tuple[Tensor, int, tuple[str, ...]]:
    if values.size != len(values):
        raise ConfigError(f"{name}: shape {values.shape} found, expected ({len(values)},) class labels")
    values = values.reshape(-1)
    if values.dtype.kind == "f" and (fractional := np.flatnonzero(values % 1)).size:
        row = fractional[0]
        raise ConfigError(f"{name}: class label {values[row]} found at row {row}, expected whole numbers from 0")
    if (negative := np.flatnonzero(values < 0)).size:
        row = negative[0]
        raise ConfigError(f"{name}: class label {values[row]} found at row {row}, expected whole numbers from 0")
    num_classes = int(values.max()) + 1
    if num_classes < 2:
        raise ConfigError(f"{name}: every class label is 0, expected at least 2 classes")
    num_empty = num_classes - len(np.unique(values))
    notes = (
        (f"{name}: {num_empty} of {num_classes} classes (0 to the largest label) have no sample.",) if num_empty else ()
    )
    return torch.from_numpy(values.astype(np.int64)), num_classes, notes


def _numbers(values: Array, name: str) -> tuple[Tensor, int, tuple[str, ...]]:
    if values.ndim > 2:
        raise ConfigError(f"{name}: shape {values.shape} found, expected (samples,) or (samples, outputs)")
    numbers = values.astype(np.float32).reshape(len(values), -1)
    return torch.from_numpy(numbers), numbers.shape[1], ()


def _splits(
    inputs: Array, targets: Tensor, rows: tuple[Tensor, ...], fit: Normalisation | None, mapped_path: Path | None
) -> list[Split]:
    if mapped_path is not None:
        return [MappedSplit(mapped_path, targets, part, fit) for part in rows]
    values = torch.from_numpy(inputs.astype(np.float32))
    values = fit.apply(values) if fit else values
    return [TensorSplit(values[part], targets[part], part) for part in rows]


def _fingerprint(inputs: Array, targets: Array, progress_title: str | None) -> str:
    if progress_title is None:
        return content_fingerprint(inputs, targets)
    with tqdm(desc=f"{progress_title}: hash", total=len(inputs), disable=None) as bar:
        return content_fingerprint(cast(Array, _Counted(inputs, bar.update)), targets)


class _Counted:
    """An array whose slices are reported as they are read: the hash has no progress of its own."""

    def __init__(self, array: Array, report: Callable[[int], Any]) -> None:
        self._array, self._report = array, report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: slice) -> Array:
        part: Array = self._array[key]
        if key.start is not None:  # the hash looks at `[:1]` for the size of a row, and reads that row again
            self._report(len(part))
        return part
