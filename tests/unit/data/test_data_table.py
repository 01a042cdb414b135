"""Tables from CSV and Parquet: numbers, one-hot words, classes by name; each fault names file, column and rows."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distmlp.data.dataset import DataSet
from distmlp.data.table import MAX_CATEGORIES, load_table
from distmlp.errors import ConfigError

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")

NUM_ROWS = 40
COLUMNS: dict[str, list[Any]] = {
    "width": [0.5 * row for row in range(NUM_ROWS)],
    "colour": [("red", "green", "blue")[row % 3] for row in range(NUM_ROWS)],
    "count": [row % 7 for row in range(NUM_ROWS)],
    "fresh": [row % 2 == 0 for row in range(NUM_ROWS)],
    "kind": [("pear", "apple")[row % 4 // 2] for row in range(NUM_ROWS)],
}


def load(path: Path, **changes: Any) -> DataSet:
    arguments: dict[str, Any] = {
        "target": "kind",
        "task": "classification",
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "split_seed": 0,
        "normalize": False,
    }
    return load_table(path=str(path), **(arguments | changes))


def saved(folder: Path, suffix: str = ".csv", **changes: Any) -> Path:
    """COLUMNS with ``changes`` (a column to None leaves it out) in a file."""
    table = pa.table({name: values for name, values in (COLUMNS | changes).items() if values is not None})
    path = folder / f"fruit{suffix}"
    (csv.write_csv if suffix == ".csv" else parquet.write_table)(table, path)
    return path


def changed(name: str, row: int, value: Any) -> dict[str, list[Any]]:
    return {name: [*COLUMNS[name][:row], value, *COLUMNS[name][row + 1 :]]}


def everything(data: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of all splits, in the order of the file's rows."""
    splits = (data.train, data.validation, data.test)
    ids = torch.cat([split.sample_ids(torch.arange(len(split))) for split in splits])
    assert ids.sort().values.tolist() == list(range(NUM_ROWS))
    inputs, targets = zip(*(split.batch(torch.arange(len(split))) for split in splits), strict=True)
    return torch.cat(inputs)[ids.argsort()], torch.cat(targets)[ids.argsort()]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_numbers_then_one_hot_groups_then_named_classes(tmp_path: Path, suffix: str) -> None:
    data = load(saved(tmp_path, suffix))
    inputs, targets = everything(data)
    # width, count | colour: blue, green, red | fresh: false, true
    assert inputs[:3].tolist() == [[0, 0, 0, 0, 1, 0, 1], [0.5, 1, 0, 1, 0, 1, 0], [1, 2, 1, 0, 0, 0, 1]]
    assert targets[:4].tolist() == [1, 1, 0, 0]
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert (data.input_shape, data.num_outputs, data.name) == ((7,), 2, "fruit")
    assert data.notes == ("Classes of kind: 0=apple, 1=pear.",)


def test_the_fingerprint_is_of_the_content_not_of_the_format(tmp_path: Path) -> None:
    original = load(saved(tmp_path)).fingerprint
    assert load(saved(tmp_path, ".parquet"), normalize=True).fingerprint == original
    for changes in (changed("width", 3, 9.0), changed("colour", 3, "blue"), changed("kind", 3, "pear")):
        assert load(saved(tmp_path, **changes)).fingerprint != original


def test_columns_may_be_dropped_or_taken_as_categories(tmp_path: Path) -> None:
    data = load(saved(tmp_path), drop=["colour", "fresh"], categorical=["count"])
    inputs, _ = everything(data)
    assert data.input_shape == (1 + 7,)
    assert inputs[9, 1:].tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_a_table_of_words_alone_and_of_numbers_alone(tmp_path: Path) -> None:
    assert load(saved(tmp_path), drop=["width", "count"], normalize=True).input_shape == (5,)
    assert load(saved(tmp_path), drop=["colour", "fresh"], normalize=True).input_shape == (2,)


def test_dictionary_and_decimal_columns_of_parquet(tmp_path: Path) -> None:
    decimal = pa.array(COLUMNS["width"], pa.float64()).cast(pa.decimal128(10, 2))
    path = saved(tmp_path, ".parquet", colour=pa.array(COLUMNS["colour"]).dictionary_encode(), width=decimal)
    plain, encoded = load(saved(tmp_path)), load(path)
    assert torch.equal(everything(encoded)[0], everything(plain)[0])
    assert encoded.fingerprint == plain.fingerprint


def test_a_category_outside_the_training_split_is_all_zeros(tmp_path: Path) -> None:
    row = int(load(saved(tmp_path)).test.sample_ids(torch.tensor([0])))
    data = load(saved(tmp_path, **changed("colour", row, "violet")))
    assert data.input_shape == (7,)
    assert everything(data)[0][row, 2:5].tolist() == [0, 0, 0]


def test_numbers_are_normalised_by_the_training_split_and_words_are_not(tmp_path: Path) -> None:
    data = load(saved(tmp_path, count=[4] * NUM_ROWS), normalize=True)
    train, _ = data.train.batch(torch.arange(len(data.train)))
    assert abs(float(train[:, 0].mean())) < 1e-6
    assert abs(float(train[:, 0].std(unbiased=False)) - 1) < 1e-5
    assert train[:, 1].abs().max() == 0
    assert set(train[:, 2:].unique().tolist()) == {0.0, 1.0}


def test_classes_of_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    data = load(saved(tmp_path, kind=[(10, 9, 100)[row % 3] for row in range(NUM_ROWS)]))
    assert data.notes == ("Classes of kind: 0=9, 1=10, 2=100.",)
    assert everything(data)[1][:3].tolist() == [1, 0, 2]


def test_regression_keeps_the_target_as_it_is(tmp_path: Path) -> None:
    data = load(saved(tmp_path), target="width", task="regression", normalize=True)
    _, targets = everything(data)
    assert (targets.shape, targets.dtype, data.num_outputs) == ((NUM_ROWS, 1), torch.float32, 1)
    np.testing.assert_array_equal(targets[:, 0].numpy(), COLUMNS["width"])
    assert data.notes == ()


def test_types_are_inferred_from_the_whole_file(tmp_path: Path) -> None:
    # More than the megabyte that Arrow infers types from by default, with the first fraction after it.
    num_rows = 150_000
    lines = [f"{row},{row % 2}" for row in range(num_rows)]
    lines[-1] = "0.5,1"
    path = tmp_path / "long.csv"
    path.write_text("value,kind\n" + "\n".join(lines))
    assert path.stat().st_size > 1 << 20
    assert load(path).input_shape == (1,)


@pytest.mark.parametrize(
    ("suffix", "changes", "message"),
    [
        (".csv", changed("width", 3, None), r"column 'width' is missing or NaN in 1 row$"),
        (".csv", changed("width", 3, float("nan")), r"column 'width' is missing or NaN in 1 row$"),
        (".parquet", changed("width", 3, float("nan")), r"column 'width' is missing or NaN in 1 row$"),
        (".csv", {"width": [None] * NUM_ROWS}, r"column 'width' is missing or NaN in 40 rows$"),
        (".csv", {"colour": [None, "", *COLUMNS["colour"][2:]]}, r"column 'colour' is missing or NaN in 2 rows$"),
        (".parquet", changed("fresh", 5, None), r"column 'fresh' is missing or NaN in 1 row$"),
        (".parquet", changed("kind", 5, None), r"column 'kind' is missing or NaN in 1 row$"),
        (".parquet", changed("width", 0, float("inf")), r"column 'width' is infinite or beyond float32 in 1 row$"),
        (".parquet", changed("width", 0, 1e300), r"column 'width' is infinite or beyond float32 in 1 row$"),
        (".parquet", {"width": [[1.0]] * NUM_ROWS}, r"column 'width' has type list<.*>, expected numbers, text or"),
        (".csv", {"kind": ["pear"] * NUM_ROWS}, r"column 'kind' is pear in every row, expected at least 2 classes$"),
    ],
)
def test_values_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, suffix: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/fruit{suffix}: {message}"):
        load(saved(tmp_path, suffix, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "knid"}, r"no column 'knid'; the nearest is 'kind' \(all: width, colour, count, fresh, kind\)$"),
        ({"drop": ["colours"]}, r"no column 'colours'; the nearest is 'colour'"),
        ({"categorical": ["Count"]}, r"no column 'Count'; the nearest is 'count'"),
        ({"drop": ["kind"]}, r"column 'kind' is the target, so it cannot be in data\.categorical or data\.drop$"),
        ({"drop": ["width", "colour", "count", "fresh"]}, r"no column is left as a feature"),
        ({"task": "regression"}, r"column 'kind' is not numeric, so it cannot be the target of a regression$"),
        ({"test_fraction": 0.001}, r"40 samples split into 36 train, 4 validation and 0 test: a split is empty"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/fruit\.csv: {message}"):
        load(saved(tmp_path), **changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "cannot be parsed as CSV: Empty CSV file"),
        ("t.csv", b"a,kind\n1,x\n1,2,3\n", "cannot be parsed as CSV: .*Expected 2 columns, got 3"),
        ("t.csv", b"a,kind\n", "no rows found"),
        ("t.csv", b"a,a,kind\n1,2,3\n", "column 'a' appears 2 times, expected distinct names"),
        (
            "t.csv",
            b"d,kind\n2020-01-01,x\n2020-01-02,y\n",
            r"column 'd' has type date32\[day\], expected numbers, text",
        ),
        ("t.csv", b"d,kind\n\xff\xfe,x\n\xff,y\n", r"column 'd' has type binary, expected numbers, text"),
        ("t.parquet", b"PAR1 and no more", "cannot be parsed as Parquet: "),
        ("t.txt", b"a,kind\n1,x\n", r"expected a \.csv or \.parquet file"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/{name}: {message}") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/t\.csv: no such file$"):
        load(tmp_path / "t.csv")


def test_a_column_of_names_is_not_made_one_hot(tmp_path: Path) -> None:
    num_rows = MAX_CATEGORIES + 1
    path = tmp_path / "people.parquet"
    parquet.write_table(
        pa.table({"name": [f"n{row}" for row in range(num_rows)], "kind": [0, *[1] * (num_rows - 1)]}), path
    )
    with pytest.raises(
        ConfigError, match=r"column 'name' has 10,001 categories in 10,001 rows, .*list it in data\.drop$"
    ):
        load(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what `import` sees of a package that is not installed
    with pytest.raises(
        ConfigError, match=r'^tables need pyarrow, which is not installed: pip install "distmlp\[table\]"$'
    ):
        load(path)
