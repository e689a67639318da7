"""What every test stands on: few threads, no network, no account, nothing left behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, whoever imports it first

# Set before any test imports torch, wandb or datasets, and inherited by the processes tests start.
_HOME = tempfile.TemporaryDirectory(prefix="gateloop-tests-")
for _key in [key for key in os.environ if key.startswith("WANDB_")]:
    del os.environ[_key]  # nobody's account, project or running sweep
os.environ.update(
    # One thread: tests are small, and threads that wait for each other spin.
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_ERROR_REPORTING="false",
    NETRC=f"{_HOME.name}/netrc",
    WANDB_CONFIG_DIR=f"{_HOME.name}/wandb-config",
    WANDB_CACHE_DIR=f"{_HOME.name}/wandb-cache",
    WANDB_DATA_DIR=f"{_HOME.name}/wandb-data",
    HF_HOME=f"{_HOME.name}/huggingface",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    GATELOOP_CACHE_DIR=f"{_HOME.name}/gateloop",
    MPLBACKEND="Agg",
)


def pytest_unconfigure() -> None:
    _HOME.cleanup()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text, which the repository does not hold."""
    named = os.environ.get("GATELOOP_DATA_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real text: GATELOOP_DATA_DIR is not set, or not a folder ({folder})")
    return folder.resolve()


@pytest.fixture(autouse=True)
def _leaves_no_outputs() -> Iterator[None]:
    folders = [ROOT / name for name in ("outputs", "wandb", "runs", "lightning_logs", "multirun")]
    absent = [folder for folder in folders if not folder.exists()]
    yield
    left = [folder.name for folder in absent if folder.exists()]
    assert not left, f"the test wrote into the repository: {left}; give it a tmp_path"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ROOT / "tests" / "end_to_end" in item.path.parents:
            item.add_marker(pytest.mark.slow)
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
