"""Keys of the group `data`."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distmlp.schema.base import Auto, Fraction, Section

DataTask = Literal["classification", "regression"]
TokenTask = Literal["next_token", "masked_token"]


class DataSection(Section):
    """What every data set has."""

    name: str
    dir: str | None = Field(None, description="folder that holds the data set's files")
    global_batch_size: PositiveInt = Field(64, description="samples in one optimizer step, over all ranks together")
    validation_fraction: Fraction = Field(0.1, description="share of the samples held out for validation")
    test_fraction: Fraction = Field(0.2, description="share held out for the test, where the set has no test files")

    @model_validator(mode="after")
    def _splits_leave_training_data(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"data.validation_fraction={self.validation_fraction} and data.test_fraction={self.test_fraction} "
                "leave nothing to train on: their sum must stay below 1"
            )
        return self


class Data(DataSection):
    split_seed: int = Field(0, description="seed of the split; apart from `seed`, so that new seeds keep the test set")
    normalize: bool = Field(True, description="subtracts mean, divides by deviation, both of the training split")


class DigitsData(Data):
    name: Literal["digits"]
    image_size: PositiveInt = Field(28, description="height and width that the 8x8 images are resized to")


class MNISTData(Data):
    name: Literal["mnist"]


class FashionMNISTData(Data):
    name: Literal["fashion_mnist"]


class ArraysData(Data):
    name: Literal["arrays"]
    inputs: str = Field(description=".npz with both arrays, or .npy of the inputs")
    targets: str | None = Field(None, description=".npy of the targets, where inputs is a .npy")
    inputs_key: str = Field("inputs", description="name of the inputs inside the .npz")
    targets_key: str = Field("targets", description="name of the targets inside the .npz")
    task: DataTask = Field("classification", description="classification or regression")
    memory_limit_bytes: NonNegativeInt = Field(2**30, description="a larger .npy is memory-mapped")


class TableData(Data):
    name: Literal["table"]
    path: str = Field(description="a .csv or .parquet file")
    target: str = Field(description="the column to predict")
    categorical: list[str] = Field([], description="numeric columns to treat as categories; text columns always are")
    drop: list[str] = Field([], description="columns to leave out")
    task: DataTask = Field("classification", description="classification or regression")


class SyntheticData(Data):
    name: Literal["synthetic"]
    num_samples: PositiveInt = Field(65536, description="size of the set; memory does not grow with it")
    input_shape: list[PositiveInt] = Field([784], description="shape of one sample")
    num_classes: PositiveInt = Field(10, description="number of classes")


class TokenData(DataSection):
    """Sequences of tokens. They are split by position: training first, then validation, then test."""

    validation_fraction: Fraction = Field(0.1, description="share of the samples held out for validation")
    test_fraction: Fraction = Field(0.0, description="share held out for the test, where the set has no test files")
    sequence_length: PositiveInt = Field(128, description="tokens of one sample")
    task: TokenTask | Auto = Field("auto", description="next_token, masked_token, or auto: what the model is made for")
    mask_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="share of tokens to predict in masked_token"
    )


class TextData(TokenData):
    name: Literal["text"]
    path: str = Field(description="a text file, or a folder of them, each a document")
    files: str = Field("*.txt", description="which files of a folder are read, in all its subfolders")
    tokenizer: str = Field(
        "characters", description="characters, bytes, bpe (trained on the data), or a tokenizer.json"
    )
    vocab_size: PositiveInt | None = Field(None, description="tokens that tokenizer=bpe learns; null: 8192")
    packing: Literal["stream", "documents"] = Field(
        "stream", description="stream: one after the other; documents: padded, none shares a sample"
    )
    cache_dir: str | None = Field(None, description="folder of prepared tokens; null: the user's cache folder")


class TokensData(TokenData):
    name: Literal["tokens"]
    path: str = Field(description="a .bin or .npy file of token ids, or a folder of them in the order of their names")
    validation_path: str | None = Field(None, description="the same for validation; null: validation_fraction of path")
    dtype: Literal["uint8", "uint16", "uint32", "int32", "int64"] = Field("uint16", description="number type of a .bin")
    vocab_size: PositiveInt | None = Field(None, description="ids are below it; null: the tokenizer's")
    tokenizer: str | None = Field(None, description="the tokenizer.json that made the ids, for bits per byte and text")
    separator: NonNegativeInt | None = Field(
        None, description="id that ends a document; null: the tokenizer's, or none"
    )
    packing: Literal["stream", "documents"] = Field(
        "stream", description="stream: one after the other; documents: padded, none shares a sample"
    )
    cache_dir: str | None = Field(None, description="folder of what was found in the files; null: the user's cache")

    @model_validator(mode="after")
    def _vocabulary_is_known(self) -> Self:
        if self.vocab_size is None and self.tokenizer is None:
            raise ValueError("data=tokens needs to know how many ids there are: give data.vocab_size or data.tokenizer")
        return self


class SyntheticTokensData(TokenData):
    name: Literal["synthetic_tokens"]
    num_samples: PositiveInt = Field(65536, description="size of the set; memory does not grow with it")
    vocab_size: PositiveInt = Field(50257, description="number of different tokens")
    split_seed: int = Field(0, description="seed of what is generated")
