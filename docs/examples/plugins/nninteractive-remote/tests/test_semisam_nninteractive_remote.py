"""NNInteractiveRemote keeps the contract of a backend, with `semisam serve` as the server."""

import re
import subprocess
import sys

import pytest
import torch
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.testing import BackendContract

from semisam_nninteractive_remote import NNInteractiveRemote

pytest.importorskip("nnInteractive.inference.remote.remote_session")
KEY = "a-key"


@pytest.fixture(scope="module")
def address():
    """The address of a server on this machine."""
    command = [sys.executable, "-m", "semisam", "serve", "--port", "0", "--key", KEY]
    with subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, encoding="utf-8"
    ) as server:
        yield re.match(r"http://\S+", server.stdout.readline()).group()
        server.terminate()


class TestNNInteractiveRemote(BackendContract):
    @pytest.fixture(autouse=True)
    def _server(self, address):
        self.address = address

    def make(self):
        return NNInteractiveRemote(address=self.address, key=KEY)

    def example(self, kind, box, shape):
        drawn = torch.zeros(shape)
        middle = tuple(slice(p.start + 1, p.stop - 1) for p in box[:1])
        drawn[(*middle, *((p.start + p.stop) // 2 for p in box[1:]))] = 1
        return drawn


def test_only_new_clicks_are_sent(address):
    backend = NNInteractiveRemote(address=address, key=KEY)
    image = torch.zeros(1, 24, 24, 24)
    image[:, 4:12, 4:12, 4:12] = 3
    embedding = backend.encode(image)
    first = Prompt(torch.tensor([[8, 8, 8]]), torch.tensor([1]))
    backend.segment(embedding, first)
    sent = []
    add = backend._session.add_point_interaction
    backend._session.add_point_interaction = lambda *a, **k: (sent.append(a), add(*a, **k))
    more = torch.tensor([[8, 8, 8], [5, 5, 5]]), torch.tensor([1, 1])
    backend.segment(embedding, Prompt(*more, last=first))
    assert sent == [([5, 5, 5], True)]
    backend.segment(embedding, Prompt(*more))
    assert len(sent) == 3


def test_a_session_that_the_server_forgot_is_opened_again(address):
    backend = NNInteractiveRemote(address=address, key=KEY)
    embedding = backend.encode(torch.rand(1, 16, 16, 16))
    prompt = Prompt(torch.tensor([[8, 8, 8]]), torch.tensor([1]))
    before = backend.segment(embedding, prompt)
    backend._session._http.post("/release")
    assert torch.equal(before, backend.segment(embedding, prompt))


def test_without_a_server_there_is_one_sentence():
    with pytest.raises(InputError, match=r"got http://127.0.0.1:1 \(ConnectError.*semisam serve"):
        NNInteractiveRemote(address="http://127.0.0.1:1")


def test_a_wrong_key_is_one_sentence(address):
    with pytest.raises(InputError, match="address and key must be those of a server"):
        NNInteractiveRemote(address=address, key="another")
