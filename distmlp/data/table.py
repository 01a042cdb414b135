"""A table of the user's (CSV or Parquet): numbers become features, words one-hot features, one column the target.

pyarrow reads both formats and is an extra (`distmlp[table]`). Categories and normalisation come from the training split
only: a category that first appears elsewhere is all zeros, as it would be for a network in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmlp.data.dataset import DataSet, Task, TensorSplit, content_fingerprint, split_rows
from distmlp.data.normalize import fit_normalisation
from distmlp.errors import ConfigError

MAX_CATEGORIES = 10_000  # of one column; more is a name or an id, and one-hot would not fit in memory
_NAMED_CLASSES = 20
_LARGEST_BLOCK_BYTES = 2**31 - 1

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Columns:
    """numeric (N, columns) float32; words: one array of N strings for each categorical column."""

    numeric: Array
    words: list[Array]
    names: list[str]


def load_table(
    *,
    path: str,
    target: str,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    task: Task,
    validation_fraction: float,
    test_fraction: float,
    split_seed: int,
    normalize: bool,
) -> DataSet:
    """Features (F,) float32: the numeric columns in the table's order, then the one-hot groups in the table's order.

    Args:
        path: ``.csv`` (with a header) or ``.parquet``.
        target: column to predict. Its sorted distinct values are the classes; for regression it is numeric, (N, 1).
        categorical: numeric columns to treat as categories; text and boolean columns always are.
        drop: columns to leave out.
        task: ``classification`` or ``regression``.
        validation_fraction: share of all rows that validate.
        test_fraction: share of all rows that test.
        split_seed: seed of the split.
        normalize: subtract the mean and divide by the standard deviation of the training split, for each numeric
            column; one-hot features and targets stay as they are.

    Raises:
        ConfigError: pyarrow is missing, the file cannot be parsed, a column is unknown, has missing values or a type
            that is no feature, or a split would be empty.
    """
    table = _read(file := Path(path).expanduser())
    _check_names(file, table.column_names, target, [*categorical, *drop])
    columns = _columns(file, table, [target, *drop], categorical)
    targets, num_outputs, notes = _targets(file, table, target, task)
    rows = split_rows(
        table.num_rows,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=split_seed,
        source=str(file),
    )
    inputs = torch.from_numpy(columns.numeric)
    if normalize and inputs.shape[1]:
        inputs = fit_normalisation(columns.numeric, rows[0], per_feature=True).apply(inputs)
    if columns.words:
        inputs = torch.cat([inputs, _one_hot(columns.words, rows[0])], dim=1)
    train, validation, test = (TensorSplit(inputs[part], targets[part], part) for part in rows)
    names = np.array([*columns.names, target])
    fingerprint = content_fingerprint(columns.numeric, *_codes(columns.words), names, targets.numpy())
    return DataSet(file.stem, task, (inputs.shape[1],), num_outputs, train, validation, test, fingerprint, notes)


def _read(file: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ConfigError('tables need pyarrow, which is not installed: pip install "distmlp[table]"') from error
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    if file.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{file}: expected a .csv or .parquet file")
    try:
        if file.suffix == ".parquet":
            with parquet.ParquetFile(file) as opened:
                table = opened.read()
        else:
            # Types are inferred from the first block only, so the whole file is one.
            block = csv.ReadOptions(block_size=min(max(file.stat().st_size, 1) + 1, _LARGEST_BLOCK_BYTES))
            table = csv.read_csv(file, block, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = "CSV" if file.suffix == ".csv" else "Parquet"
        raise ConfigError(f"{file}: cannot be parsed as {kind}: {' '.join(str(error).split())}") from error
    if not table.num_rows:
        raise ConfigError(f"{file}: no rows found, expected at least one for each split")
    return table


def _check_names(file: Path, present: list[str], target: str, others: list[str]) -> None:
    twice = sorted({name for name in present if present.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{file}: column {twice[0]!r} appears {present.count(twice[0])} times, expected distinct names"
        )
    for name in (target, *others):
        if name not in present:
            near = get_close_matches(name, present, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{file}: no column {name!r}; the nearest is {near!r} (all: {', '.join(present)})")
    if target in others:
        raise ConfigError(f"{file}: column {target!r} is the target, so it cannot be in data.categorical or data.drop")


def _columns(file: Path, table: Any, left_out: Sequence[str], categorical: Sequence[str]) -> _Columns:
    numeric: dict[str, Array] = {}
    words: dict[str, Array] = {}
    for name in table.column_names:
        if name in left_out:
            continue
        values = _values(file, table, name, as_text=name in categorical)
        (numeric if values.dtype.kind == "f" else words)[name] = values
    if not numeric and not words:
        raise ConfigError(f"{file}: no column is left as a feature, since the only ones are {', '.join(left_out)}")
    for name, texts in words.items():
        num_categories = len(np.unique(texts))
        if num_categories > MAX_CATEGORIES:
            raise ConfigError(
                f"{file}: column {name!r} has {num_categories:,} categories in {len(texts):,} rows, expected at most "
                f"{MAX_CATEGORIES:,}; list it in data.drop"
            )
    matrix = np.empty((table.num_rows, len(numeric)), np.float32)
    for index, (name, values) in enumerate(numeric.items()):
        with np.errstate(over="ignore"):
            matrix[:, index] = values
        _refuse(file, name, int((~np.isfinite(matrix[:, index])).sum()), "infinite or beyond float32")
    return _Columns(matrix, list(words.values()), [*numeric, *words])


def _values(file: Path, table: Any, name: str, *, as_text: bool) -> Array:
    """Column ``name`` as float64, or as strings where it is text, boolean or asked for ``as_text``."""
    import pyarrow as pa

    column, types = table.column(name), pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind)
    num_missing = column.null_count
    if types.is_floating(kind):
        num_missing += int(np.isnan(column.drop_null().to_numpy()).sum())
    _refuse(file, name, num_missing, "missing or NaN")
    if is_text or as_text:
        return np.array(column.cast(pa.string()).to_pylist(), dtype=object)
    if is_number:
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    raise ConfigError(
        f"{file}: column {name!r} has type {kind}, expected numbers, text or booleans; "
        "list it in data.categorical or data.drop"
    )


def _refuse(file: Path, name: str, num_rows: int, fault: str) -> None:
    if num_rows:
        raise ConfigError(f"{file}: column {name!r} is {fault} in {num_rows} row{'s' if num_rows > 1 else ''}")


def _targets(file: Path, table: Any, name: str, task: Task) -> tuple[Tensor, int, tuple[str, ...]]:
    """Class numbers (N,) int64 with the classes' names as a note, or (N, 1) float32."""
    values = _values(file, table, name, as_text=False)
    if task == "regression":
        if values.dtype.kind != "f":
            raise ConfigError(f"{file}: column {name!r} is not numeric, so it cannot be the target of a regression")
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float32)[:, None]
        _refuse(file, name, int((~np.isfinite(numbers)).sum()), "infinite or beyond float32")
        return torch.from_numpy(numbers), 1, ()
    classes, indices = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError(f"{file}: column {name!r} is {classes[0]} in every row, expected at least 2 classes")
    names = [f"{value:g}" if values.dtype.kind == "f" else str(value) for value in classes[:_NAMED_CLASSES]]
    listed = ", ".join(f"{number}={text}" for number, text in enumerate(names))
    more = f" and {len(classes) - len(names)} more" if len(classes) > len(names) else ""
    return torch.from_numpy(indices.astype(np.int64)), len(classes), (f"Classes of {name}: {listed}{more}.",)


def _one_hot(words: list[Array], train_rows: Tensor) -> Tensor:
    from sklearn.preprocessing import OneHotEncoder

    stacked = np.stack(words, axis=1)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    return torch.from_numpy(encoder.fit(stacked[train_rows.numpy()]).transform(stacked))


def _codes(words: list[Array]) -> list[Array]:
    """Each column as its sorted categories and each row's number among them: what the fingerprint can hash."""
    coded: list[Array] = []
    for texts in words:
        categories, numbers = np.unique(texts, return_inverse=True)
        coded += [categories.astype(str), numbers.astype(np.int64)]
    return coded
