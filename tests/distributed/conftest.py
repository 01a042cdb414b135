"""Ranks that stay imported through the session, and the outcome of each run, computed once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parity.cases import Case
from parity.ranks import Outcome, Ranks


@pytest.fixture(scope="session")
def ranks(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Starts ranks: `ranks.run(name, words, world_size)`."""
    server = Ranks(repository, tmp_path_factory.mktemp("ranks"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty texts of 5 to 41 characters."""
    folder = tmp_path_factory.mktemp("texts") / "documents"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index:02}.txt").write_text("a small sea of words, and one more wave. "[: 5 + 17 * index % 37])
    return folder


@pytest.fixture(scope="session")
def outcome(ranks: Ranks, documents: Path) -> Callable[[Case], Outcome]:
    """The outcome of a case, which runs when it is first asked for; one that fails does so wherever it is asked for."""
    known: dict[Case, Outcome | AssertionError] = {}

    def find(case: Case) -> Outcome:
        if case not in known:
            try:
                known[case] = ranks.run(str(case), case.words(documents), case.world_size)
            except AssertionError as error:
                known[case] = error
        found = known[case]
        if isinstance(found, AssertionError):
            raise found
        return found

    return find
