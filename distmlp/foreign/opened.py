"""Which kind of foreign checkpoint a path is."""

from pathlib import Path

from distmlp.errors import ConfigError
from distmlp.foreign.source import Source

KINDS = (
    "a Lightning .ckpt, a torch.save of a state_dict, a .safetensors file, a DeepSpeed ZeRO folder, or a folder of "
    "torch.distributed.checkpoint"
)


def open_source(path: Path, trust_source: bool) -> Source:
    """The foreign checkpoint at ``path``; ``trust_source`` is the user's word that its code may run.

    Raises:
        ConfigError: it is none, is damaged, or cannot be read without running code.
    """
    from distmlp.foreign.deepspeed import open_deepspeed, part_folder
    from distmlp.foreign.torch_file import open_safetensors, open_torch_file

    if path.is_file():
        return open_safetensors(path) if path.suffix == ".safetensors" else open_torch_file(path)
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist: give {KINDS}")
    if (path / "manifest.json").is_file() or (path / "config.yaml").is_file():
        raise ConfigError(
            f"{path} is a checkpoint or a run of distmlp's own: evaluate, export and diff read it as it is"
        )
    if (path / ".metadata").is_file():
        from distmlp.foreign.dcp import open_dcp

        return open_dcp(path, trust_source)
    if part_folder(path):
        return open_deepspeed(path, trust_source)
    raise ConfigError(f"{path} is no checkpoint that can be imported: give {KINDS}")
