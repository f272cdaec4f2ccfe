"""SynthSAM behind nnInteractive's protocol, called by nnInteractive's own client."""

from __future__ import annotations

import json
import socket
import struct
import threading

import numpy as np
import pytest
from click.testing import CliRunner

import semisam
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.phantom import SPACING, make_case
from semisam.interactive import serve
from semisam.interactive.click import ClickableScan
from semisam.interactive.serve import Refused, Service, make_server

httpx = pytest.importorskip("httpx")
remote = pytest.importorskip("nnInteractive.inference.remote.remote_session")
pack_array = pytest.importorskip("nnInteractive.inference.remote.serialization").pack_array

KEY = "a-key"


@pytest.fixture(scope="module")
def case():
    """A phantom, its atrium and a voxel deep inside."""
    image, label = make_case(0, 0, size=40)
    places = np.argwhere(label == 1)
    middle = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return image, (label == 1).astype(np.uint8), tuple(int(at) for at in middle)


@pytest.fixture
def address():
    """A running server that takes arrays of up to 4 MiB from two clients."""
    service = Service(
        lambda image, spacing: ClickableScan(image, spacing=spacing, device="cpu"), 4 << 20, 2
    )
    with make_server(service, KEY, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def client(address, case):
    """A client that has sent the phantom."""
    with remote.nnInteractiveRemoteInferenceSession(address, KEY) as session:
        session.set_image(case[0][None], {"spacing": [SPACING] * 3})
        session.set_target_buffer(np.zeros(case[0].shape, np.uint8))
        yield session


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_client_gets_the_mask_of_its_clicks(client, case):
    image, atrium, point = case
    client.add_point_interaction(point, True)
    wanted = semisam.click(image, [point], spacing=[SPACING] * 3, device="cpu").mask
    assert np.array_equal(client.target_buffer, wanted)
    first = client.target_buffer.copy()
    edge = [int(at) for at in np.argwhere(first)[-1]]
    client.add_point_interaction(edge, False)
    assert client.target_buffer[tuple(edge)] == 0 and first[tuple(edge)] == 1
    assert client.undo() and np.array_equal(client.target_buffer, first)
    assert client.undo() and not client.target_buffer.any()
    assert not client.undo()
    assert _dice(first, atrium) > 0.6


def test_boxes_scribbles_and_initial_masks(client, case):
    _, atrium, _ = case
    places = np.argwhere(atrium)
    ends = [[int(a), int(b) + 1] for a, b in zip(places.min(0), places.max(0), strict=True)]
    client.add_bbox_interaction(ends, True)
    assert _dice(client.target_buffer, atrium) > 0.6
    client.reset_interactions()
    client.add_initial_seg_interaction(atrium)
    assert np.array_equal(client.target_buffer, atrium)
    client.reset_interactions()
    assert client._predict() is None
    scribble = np.zeros_like(atrium)
    middle = places[len(places) // 2]
    scribble[middle[0] - 2 : middle[0] + 3, middle[1], middle[2]] = 1
    client.add_scribble_interaction(scribble, True)
    whole = client.target_buffer.copy()
    client.reset_interactions()
    box = [[int(m) - 2, int(m) + 3] for m in middle]
    part = scribble[tuple(slice(a, b) for a, b in box)]
    client.add_scribble_interaction(part, True, interaction_bbox=box)
    assert whole.any() and np.array_equal(client.target_buffer, whole)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_area_in_one_slice_shows_the_object(client, case, axis):
    _, atrium, point = case
    slab = np.zeros_like(atrium)
    at = (*[slice(None)] * axis, slice(point[axis], point[axis] + 1))
    slab[at] = atrium[at]
    client.add_lasso_interaction(slab, True)
    lasso = client.target_buffer.copy()
    assert _dice(lasso, atrium) > 0.6
    client.reset_interactions()
    places = np.argwhere(slab)
    ends = [[int(a), int(b) + 1] for a, b in zip(places.min(0), places.max(0), strict=True)]
    client.add_bbox_interaction(ends, True)
    assert _dice(client.target_buffer, atrium) > 0.6
    # The same area as background removes what is there.
    kept = client.target_buffer[at].sum()
    client.add_bbox_interaction(ends, False)
    assert client.target_buffer[at].sum() < kept


def test_points_of_an_area_are_well_within_it():
    area = np.zeros((9, 30, 20), bool)
    area[4, 5:26, 3:18] = True
    points = np.array(serve._within(area))
    assert len(points) == serve._ENCLOSED and (points[:, 0] == 4).all()
    assert (points[:, 1] >= 8).all() and (points[:, 1] <= 22).all()
    assert (points[:, 2] >= 6).all() and (points[:, 2] <= 14).all()
    single = np.zeros((3, 3, 3), bool)
    single[1, 2, 0] = True
    assert serve._within(single) == [(1, 2, 0)]
    assert serve._within(np.zeros((3, 3, 3), bool)) == []


def test_what_cannot_be_used_is_refused_and_the_session_stays(client, case):
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        client.add_point_interaction((99, 0, 0), True)
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        client.set_image(np.zeros((1, 128, 128, 128), np.float32))
    client.reset_interactions()
    client.add_point_interaction(case[2], True)
    assert client.target_buffer.any() and client.heartbeat() > 0


def test_a_refused_prompt_leaves_the_prompts_as_they_were(client, case):
    client.add_point_interaction(case[2], True)
    shown = client.target_buffer.copy()
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        client.add_point_interaction((99, 0, 0), True)
    client.add_point_interaction(case[2], True)
    assert client.undo() and np.array_equal(client.target_buffer, shown)


@pytest.mark.parametrize("run", [False, True])
def test_a_prompt_outside_is_refused_before_and_without_a_prediction(case, run):
    service = Service(lambda image, spacing: None, 1 << 20)
    lease = service.call("/claim", "", {}, b"")[0]["lease_token"]
    service._dialogues[lease].open(ClickableScan(case[0], device="cpu"))
    outside = {"coordinates": (99, 0, 0), "run_prediction": run}
    with pytest.raises(InputError, match="must be a voxel of the scan"):
        service.call("/add_point_interaction", lease, outside, b"")
    service.call("/add_point_interaction", lease, {"coordinates": case[2]}, b"")
    assert service._dialogues[lease].prompts.points == (case[2],)


def test_any_number_of_prompts_keeps_a_bounded_history(case):
    service = Service(lambda image, spacing: None, 1 << 20)
    lease = service.call("/claim", "", {}, b"")[0]["lease_token"]
    dialogue = service._dialogues[lease]
    dialogue.open(ClickableScan(case[0], device="cpu"))
    with pytest.raises(Refused, match="the size of the image"):
        service.call("/add_initial_seg_interaction", lease, {}, pack_array(case[1][1:]))
    meta = {"coordinates": case[2], "run_prediction": False}
    for _ in range(2 * serve._UNDONE):
        service.call("/add_point_interaction", lease, meta, b"")
    assert len(dialogue.before) == serve._UNDONE


@pytest.mark.parametrize(
    ("path", "meta"),
    [
        ("/undo", "[" * 50_000),
        ("/add_point_interaction", '{"coordinates": [1e999, 0, 0]}'),
        ("/add_bbox_interaction", '{"bbox_coords": [[0, 1e999], [0, 1], [0, 1]]}'),
        ("/set_image", '{"image_properties": [1]}'),
        ("/set_image", '{"image_properties": {"spacing": [1e-300, 1e-300, 1e-300]}}'),
    ],
)
def test_a_malformed_call_is_refused_and_the_server_stays(address, capfd, path, meta):
    headers = {"Authorization": f"Bearer {KEY}"}
    lease = httpx.post(f"{address}/claim", headers=headers).json()["lease_token"]
    headers |= {"X-Lease-Token": lease, "Content-Type": "application/octet-stream"}
    image = pack_array(np.zeros((1, 4, 4, 4), np.float32))
    answer = httpx.post(f"{address}{path}", headers={**headers, "X-Meta": meta}, content=image)
    assert answer.status_code == 400 and json.loads(answer.content)["detail"]
    assert "Traceback" not in capfd.readouterr().err


def test_without_the_key_no_body_is_read(address):
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(b"POST /claim HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
        assert caller.recv(12) == b"HTTP/1.1 401"


def test_a_key_and_a_lease_are_needed(address, client):
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        remote.nnInteractiveRemoteInferenceSession(address, "another")
    second = remote.nnInteractiveRemoteInferenceSession(address, KEY)
    with pytest.raises(remote.ServerAtCapacityError):
        remote.nnInteractiveRemoteInferenceSession(address, KEY)
    second.close()
    with remote.nnInteractiveRemoteInferenceSession(address, KEY) as third:
        third._http.headers["X-Lease-Token"] = "made-up"
        with pytest.raises(remote.SessionExpiredError):
            third.undo()
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{address}/undo", headers=headers).status_code == 410
    assert httpx.get(f"{address}/healthz").json() == {"ok": True}
    answer = httpx.post(f"{address}/claim", headers=headers, content=b"[1]")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("kind", "shape", "status"),
    [("object", (4, 4), 400), ("float32", (-1, 4), 400), ("uint8", (1 << 40, 4), 413)],
)
def test_a_hostile_array_is_refused_by_its_header(kind, shape, status):
    service = Service(lambda image, spacing: None, 1 << 20)
    lease = service.call("/claim", "", {}, b"")[0]["lease_token"]
    head = struct.pack("<4sBBBB", b"NNIA", 1, 1, len(shape), len(kind)) + kind.encode()
    body = head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<I", 0)
    with pytest.raises(Refused) as refused:
        service.call("/set_image", lease, {}, body)
    assert refused.value.status == status


def test_a_forgotten_client_makes_room(monkeypatch):
    service = Service(lambda image, spacing: None, 1 << 20, clients=1)
    lease = service.call("/claim", "", {}, b"")[0]["lease_token"]
    with pytest.raises(Refused):
        service.call("/claim", "", {}, b"")
    monkeypatch.setattr(serve, "_IDLE", -1.0)
    assert service.call("/claim", "", {}, b"")[0]["lease_token"] != lease
    with pytest.raises(Refused):
        service.call("/undo", lease, {}, b"")


def test_without_the_client_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2 and "Install semisam[serve]" in result.stderr
