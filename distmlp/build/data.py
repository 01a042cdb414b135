"""The data set of a configuration, and the loaders of its splits."""

from distmlp.config import Config
from distmlp.data import load
from distmlp.data.dataset import DataSet
from distmlp.data.loader import EvaluationLoader, TrainLoader
from distmlp.runtime import World
from distmlp.schema.data import TokenData
from distmlp.strategy_rules import data_world


def build_data(config: Config) -> DataSet:
    """Loads the data set; faults in it are `ConfigError`s."""
    arguments = config.data.model_dump(exclude={"name", "global_batch_size"})
    if isinstance(config.data, TokenData):
        arguments |= {"task": config.token_task, "seed": config.seed}
    return load(config.data.name, arguments)


def train_loader(config: Config, data: DataSet, world: World, first: tuple[int, int] = (0, 0)) -> TrainLoader:
    """This rank's shares of the training split, from the epoch and the sample ``first`` on."""
    world = data_world(config, world)
    loader = TrainLoader(
        data.train,
        global_batch_size=config.data.global_batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.world_size,
        with_sample_ids=config.trainer.log_sample_ids,
    )
    loader.start_at(*first)
    return loader


def evaluation_loader(config: Config, data: DataSet, world: World, split: str) -> EvaluationLoader:
    """This rank's part of a split, in batches no larger than a training step's."""
    world = data_world(config, world)
    share = -(-config.data.global_batch_size // world.world_size)
    given = config.trainer.micro_batch_size
    size = min(given, share) if isinstance(given, int) else share
    return EvaluationLoader(data.split(split), batch_size=size, rank=world.rank, world_size=world.world_size)
