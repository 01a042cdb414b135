"""What is compiled for one environment is not taken for another's."""

import sys
from pathlib import Path

import pytest

from distmlp.strategy.deepspeed_io import _folder, is_compiled


def test_two_environments_on_a_machine_do_not_share_what_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (_folder("cpu") / "async_io").mkdir(parents=True)
    (_folder("cpu") / "async_io" / "async_io.so").touch()
    assert is_compiled("cpu")
    assert not is_compiled("cuda")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "another"))
    assert not is_compiled("cpu")
