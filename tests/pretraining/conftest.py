import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Volumes as small as these are not worth a second thread, least of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
