"""One thread for the whole suite, so that neither results nor times depend on the machine; plugins leave no trace."""

from collections.abc import Iterator

import pytest
import torch

from compose.core import registry
from compose.run import features

torch.set_num_threads(1)


def _apart() -> Iterator[None]:
    """What is loaded meanwhile is forgotten afterwards; else a run would record the plugins of tests before it."""
    registry.names("net")  # entry points belong to every test
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugged", {role: dict(parts) for role, parts in registry._plugged.items()})
        patch.setattr(registry, "_plugins", registry.plugins())
        yield


@pytest.fixture(autouse=True, scope="session")
def hasty_classifiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What samples are compared by is trained in a second, and kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_CACHE", str(tmp_path_factory.mktemp("classifiers")))
        patch.setattr(features, "STEPS", 20)
        yield


plugins_of_a_module = pytest.fixture(autouse=True, scope="module")(_apart)
plugins_of_a_test = pytest.fixture(autouse=True)(_apart)
