"""A server for viewers that speak nnInteractive's protocol over HTTP, with SynthSAM behind it.

nnInteractive's client (Apache-2.0) sends an image and prompts, and receives the part of the mask
that changed. This server needs the client's package only for the format of arrays.

References:
    Isensee et al. "nnInteractive: Redefining 3D promptable segmentation." 2025.
    https://arxiv.org/abs/2503.08373
"""

from __future__ import annotations

import hmac
import json
import math
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.masks import deepness
from semisam.interactive.click import ClickableScan

_META, _LEASE = "X-Meta", "X-Lease-Token"
_KINDS = {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"}
_IDLE = 1800.0  # seconds without a call after which a client is forgotten
_SCRIBBLED = 16  # points that stand for a scribble
_ENCLOSED = 5  # points that stand for an area within a lasso or a flat box
_INNER = 0.7  # of the greatest distance to the border of an area, which these points have at least
_UNDONE = 20  # prompts that undo can take back; each keeps a mask of the whole scan
_CAPABILITIES = {
    "supported_interactions": {
        **dict.fromkeys(("points", "bbox3d", "bbox2d", "scribble", "lasso"), True)
    },
    "channel_mapping": {
        **{"prev_seg": 0, "bbox2d": [1, 2], "bbox3d": [1, 2], "lasso": [1, 2]},
        **{"points": [3, 4], "scribble": [5, 6]},
    },
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": True,
    "preferred_scribble_thickness": [2, 2, 2],
    "interaction_decay": None,
    "patch_size": None,
    "do_autozoom": False,
    "inference_session_version": "semisam",
    "license": "Apache-2.0",
    "supports_undo": True,
}

Labels = NDArray[np.uint8]
Payload = Mapping[str, Any]
OpenScan = Callable[[NDArray[Any], tuple[float, ...]], ClickableScan]
"""A function that prepares an image ``(C, *S)`` with its spacing for clicks."""


class Refused(Exception):
    """A call that cannot be served, with its HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Prompts:
    """The prompts of a client so far.

    Attributes:
        points: voxels in the object.
        negative: voxels outside the object.
        box: first and last voxel.
        mask: the mask to correct, which is the last prediction after the first one.
        drawn: the mask that the client began with; ``None``: it began without one.
    """

    points: tuple[tuple[int, ...], ...] = ()
    negative: tuple[tuple[int, ...], ...] = ()
    box: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    mask: Labels | None = None
    drawn: Labels | None = None


@dataclass
class Dialogue:
    """One client: its scan, its prompts, the mask that it shows, and what undo returns to."""

    scan: ClickableScan | None = None
    prompts: Prompts = field(default_factory=Prompts)
    shown: Labels = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    before: deque[tuple[Prompts, Labels]] = field(default_factory=lambda: deque(maxlen=_UNDONE))
    used: float = field(default_factory=time.monotonic)

    def open(self, scan: ClickableScan) -> None:
        """Begin with another scan."""
        self.scan = scan
        self.reset()

    def reset(self) -> None:
        """Forget all prompts."""
        shape = () if self.scan is None else self.scan.shape
        self.prompts, self.shown = Prompts(), np.zeros(shape, np.uint8)
        self.before.clear()

    def add(self, prompts: Prompts, run: bool, shown: Labels | None = None) -> Labels | None:
        """Take prompts and return the new mask; ``None`` without a prediction.

        Prompts that cannot be used are forgotten, so the next call is not refused because of them.
        """
        if self.scan is None:
            raise Refused(400, "an image must come before a prompt")
        self.scan.check(*prompts.points, *prompts.negative, *(prompts.box or ()))
        last = self.prompts, self.shown
        self.prompts, self.shown = prompts, last[1] if shown is None else shown
        try:
            found = self.predict() if run else None
        except Exception:
            self.prompts, self.shown = last
            raise
        self.before.append(last)
        return found

    def predict(self) -> Labels | None:
        """Return the new mask; ``None`` if no prompt shows the object."""
        p = self.prompts
        if self.scan is None or not (p.points or p.box or p.mask is not None):
            return None
        drawn = np.zeros(self.scan.shape, np.uint8) if p.drawn is None else p.drawn
        found = self.scan.segment(
            p.points, negative=p.negative, mask=p.mask, box=p.box, drawn=drawn
        )
        self.prompts = replace(p, mask=found.labelmap if found.labelmap.any() else None)
        return found.labelmap

    def undo(self) -> Labels | None:
        """Return the mask before the last prompt; ``None`` before any prompt."""
        if not self.before:
            return None
        self.prompts, last = self.before.pop()
        return last


class Service:
    """The calls of the protocol, without HTTP.

    Args:
        open_scan: prepares an image for clicks.
        most: bytes of the largest array.
        clients: their largest number.
    """

    def __init__(self, open_scan: OpenScan, most: int, clients: int = 8) -> None:
        self.most = most
        self._open, self._clients = open_scan, clients
        self._dialogues: dict[str, Dialogue] = {}
        self._leases = threading.Lock()
        self._model = threading.Lock()

    def call(self, path: str, lease: str, meta: Payload, body: bytes) -> tuple[Payload, bytes]:
        """Serve one call and return its JSON and its array, of which one is empty.

        Raises:
            Refused: the call is wrong, or its client is unknown.
            InputError: the scan or a prompt cannot be used.
        """
        if path == "/healthz":
            return {"ok": True}, b""
        if path == "/capabilities":
            return _CAPABILITIES, b""
        if path == "/claim":
            return {"lease_token": self._claim(), **_TIMES, "max_sessions": self._clients}, b""
        if path == "/release":
            with self._leases:
                self._dialogues.pop(lease, None)
            return {"released": True}, b""
        dialogue = self._dialogue(lease)
        left = _IDLE - (time.monotonic() - dialogue.used)
        if path in ("/heartbeat", "/lease_status"):
            return {"remaining_seconds": left, **_TIMES}, b""
        dialogue.used = time.monotonic()
        with self._model:
            return self._prompted(path, dialogue, meta, body)

    def _prompted(
        self, path: str, dialogue: Dialogue, meta: Payload, body: bytes
    ) -> tuple[Payload, bytes]:
        p, run = dialogue.prompts, bool(meta.get("run_prediction", True))
        inside = bool(meta.get("include_interaction", True))
        if path == "/set_image":
            image = self._array(body)
            if image.ndim != 4:
                raise Refused(400, f"an image must have four axes, got {image.ndim}")
            spacing = (meta.get("image_properties") or {}).get("spacing") or (1.0, 1.0, 1.0)
            dialogue.open(self._open(image, tuple(float(mm) for mm in spacing)))
            return {"original_image_shape": list(image.shape)}, b""
        if path in ("/set_target_buffer", "/set_do_autozoom"):
            return {}, b""
        if path == "/reset_interactions":
            dialogue.reset()
            return {}, b""
        if path == "/undo":
            return _difference(dialogue, dialogue.undo())
        if path == "/predict":
            return _difference(dialogue, dialogue.predict())
        if path == "/add_point_interaction":
            added = _clicked(p, [_voxel(meta["coordinates"])], inside)
        elif path == "/add_scribble_interaction":
            drawn = self._placed(dialogue, meta, body)
            added = _clicked(p, _spread(np.argwhere(drawn), _SCRIBBLED), inside)
        elif path == "/add_lasso_interaction":
            added = _clicked(p, _within(self._placed(dialogue, meta, body)), inside)
        elif path == "/add_bbox_interaction":
            low, high = zip(*meta["bbox_coords"], strict=True)
            low, last = _voxel(low), _voxel([end - 1 for end in high])
            if inside and all(a < b for a, b in zip(low, last, strict=True)):
                added = replace(p, box=(low, last))
            else:
                area = np.zeros(dialogue.shown.shape, bool)
                area[tuple(slice(max(a, 0), b + 1) for a, b in zip(low, last, strict=True))] = True
                added = _clicked(p, _within(area), inside)
        elif path == "/add_initial_seg_interaction":
            mask = (self._array(body) != 0).astype(np.uint8)
            if mask.shape != dialogue.shown.shape:
                raise Refused(400, f"a mask must have the size of the image, got {mask.shape}")
            run = bool(meta.get("run_prediction", False))
            return _difference(dialogue, dialogue.add(Prompts(mask=mask, drawn=mask), run, mask))
        else:
            raise Refused(
                400, f"{path} is not served; give points, scribbles, lassos, boxes or a mask"
            )
        return _difference(dialogue, dialogue.add(added, run))

    def _placed(self, dialogue: Dialogue, meta: Payload, body: bytes) -> NDArray[Any]:
        """Return a drawn mask in the whole scan."""
        part = np.not_equal(self._array(body), 0)
        box = meta.get("interaction_bbox")
        if box is None:
            return np.asarray(part)
        whole = np.zeros(dialogue.shown.shape, bool)
        whole[tuple(slice(int(low), int(high)) for low, high in box)] = part
        return whole

    def _claim(self) -> str:
        with self._leases:
            now = time.monotonic()
            for token in [t for t, d in self._dialogues.items() if now - d.used > _IDLE]:
                del self._dialogues[token]
            if len(self._dialogues) >= self._clients:
                raise Refused(503, "there are too many clients")
            token = secrets.token_urlsafe()
            self._dialogues[token] = Dialogue()
            return token

    def _dialogue(self, lease: str) -> Dialogue:
        with self._leases:
            found = self._dialogues.get(lease)
        if found is None:
            raise Refused(410, "the lease must be one that was claimed, got another or none")
        return found

    def _array(self, body: bytes) -> NDArray[Any]:
        """Return an array of a body, whose header is checked before anything is unpacked."""
        from nnInteractive.inference.remote.serialization import unpack_array

        try:
            _, _, _, axes, length = struct.unpack_from("<4sBBBB", body)
            kind = body[8 : 8 + length].decode("ascii")
            shape = struct.unpack_from(f"<{axes}q", body, 8 + length)
            if kind not in _KINDS or min(shape, default=0) < 1:
                raise ValueError(f"an array of {kind} and shape {shape}")
            if math.prod(shape) * np.dtype(kind).itemsize > self.most:
                raise Refused(413, "the array is larger than this server takes")
            unpacked: NDArray[Any] = unpack_array(body)
        except (ValueError, struct.error, RuntimeError) as error:
            raise Refused(400, f"the array cannot be read: {error}") from None
        return unpacked


_TIMES = {"idle_timeout_seconds": _IDLE, "liveness_timeout_seconds": 60.0}


def _voxel(index: Any) -> tuple[int, ...]:
    return tuple(int(at) for at in index)


def _spread(voxels: NDArray[np.int64], most: int) -> list[tuple[int, ...]]:
    """Return at most so many of the voxels ``(N, 3)``, spread over their order."""
    chosen = voxels[np.linspace(0, len(voxels) - 1, most).astype(int)] if len(voxels) else voxels
    return sorted({_voxel(voxel) for voxel in chosen})


def _within(area: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Return points well within an area ``(*S)``, which may be as flat as a slice."""
    places = np.argwhere(area)
    if not len(places):
        return []
    low, end = places.min(0), places.max(0) + 1
    part = area[tuple(slice(a, b) for a, b in zip(low, end, strict=True))]
    flat = part.reshape([n for n in part.shape if n > 1] or [1])
    deep = deepness(flat).reshape(part.shape)
    return _spread(low + np.argwhere(deep >= _INNER * deep.max()), _ENCLOSED)


def _clicked(prompts: Prompts, voxels: list[tuple[int, ...]], inside: bool) -> Prompts:
    if inside:
        return replace(prompts, points=(*prompts.points, *voxels))
    return replace(prompts, negative=(*prompts.negative, *voxels))


def _difference(dialogue: Dialogue, mask: Labels | None) -> tuple[Payload, bytes]:
    """Show a mask and return the part that changed."""
    from nnInteractive.inference.remote.serialization import pack_array

    if mask is None:
        return {"ran_prediction": False, "bbox": None, "array": True}, b""
    changed = np.argwhere(mask != dialogue.shown)
    dialogue.shown = mask
    if not len(changed):
        return {"ran_prediction": True, "bbox": None, "array": True}, b""
    box = [[int(a), int(b) + 1] for a, b in zip(changed.min(0), changed.max(0), strict=True)]
    part = np.ascontiguousarray(mask[tuple(slice(a, b) for a, b in box)])
    return {"ran_prediction": True, "bbox": box, "array": True}, pack_array(part)


def make_server(service: Service, key: str, port: int) -> ThreadingHTTPServer:
    """Return a server on loopback, which takes calls with the key only.

    Args:
        service: of the calls.
        key: the bearer token of each call.
        port: 0 for any free one.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/healthz" or self._has_key():
                self._serve({}, b"")

        def do_POST(self) -> None:
            if not self._has_key():
                return
            try:
                length = int(self.headers.get("Content-Length") or 0)
            except ValueError:
                length = -1
            if not 0 <= length <= service.most or "Transfer-Encoding" in self.headers:
                self.close_connection = True  # the body is not read
                self._reply(413, {"detail": "the body is larger than this server takes"}, b"")
                return
            body = self.rfile.read(length)
            binary = self.headers.get("Content-Type", "").startswith("application/octet-stream")
            try:
                meta = json.loads((self.headers.get(_META) if binary else body) or "{}")
            except (ValueError, RecursionError):
                meta = None
            if not isinstance(meta, dict):
                self._reply(400, {"detail": "the call must come with a JSON object"}, b"")
                return
            self._serve(meta, body if binary else b"")

        def _has_key(self) -> bool:
            """Return whether a call comes with the key, and refuse it otherwise."""
            given = self.headers.get("Authorization", "").encode()
            known = hmac.compare_digest(given, f"Bearer {key}".encode())
            if not known:
                self.close_connection = True  # the body is not read
                self._reply(401, {"detail": "the key must be the server's"}, b"")
            return known

        def _serve(self, meta: Payload, body: bytes) -> None:
            try:
                lease = self.headers.get(_LEASE, "")
                self._reply(200, *service.call(self.path, lease, meta, body))
            except Refused as refused:
                self._reply(refused.status, {"detail": str(refused)}, b"")
            except Exception as error:  # a call may hold anything
                self._reply(400, {"detail": str(error) or type(error).__name__}, b"")

        def _reply(self, status: int, found: Payload, array: bytes) -> None:
            about = dict(found)
            binary = bool(about.pop("array", False))
            text = json.dumps(about)
            content = array if binary else text.encode()
            self.send_response(status)
            if binary:
                self.send_header(_META, text)
            kind = "application/octet-stream" if binary else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server
