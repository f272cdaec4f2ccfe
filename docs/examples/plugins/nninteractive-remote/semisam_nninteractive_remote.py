"""A server with nnInteractive's protocol as a promptable model of semisam.

The server may be nnInteractive's own, on another machine with a GPU, or ``semisam serve``. It keeps
a session with the scan and its prompts, so only new prompts are sent. The client's package is small
and needs no torch. No weights are read here.

References:
    Isensee et al. "nnInteractive: Redefining 3D promptable segmentation." 2025.
    https://arxiv.org/abs/2503.08373
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semisam.core.errors import InputError
from semisam.core.types import Place, Prompt

_SERVED = {"points": "points", "bbox3d": "box", "scribble": "scribble"}
_SURE = 4.0  # logit of a voxel of the mask, since a server sends no probabilities


@dataclass(frozen=True, eq=False)
class Embedding:
    """A scan as the server gets it.

    Attributes:
        image: ``(1, *S)`` float32.
        spacing: mm.
        device: on which logits are wanted.
    """

    image: np.ndarray
    spacing: tuple[float, ...]
    device: torch.device


class NNInteractiveRemote:
    """A promptable model on a server with nnInteractive's protocol.

    It accepts points, boxes, masks and scribbles, as far as the server does. A scribble is a mask
    ``(*S)`` in ``Prompt.more``. Of several channels the first is sent.

    Args:
        address: of the server.
        key: of the server; empty: that of the environment variable NN_INTERACTIVE_API_KEY.

    Raises:
        InputError: the client's package is missing, or no server with this key is there.
    """

    ndim, axes, wants_place = 3, (3,), True
    accepts = frozenset({"points", "box", "mask", "scribble"})

    def __init__(self, *, address: str = "http://127.0.0.1:1527", key: str = "") -> None:
        self._address, self._key = address, key or None
        # A run may wait for long, and a server has few sessions, so none is held yet.
        with self._connected() as session:
            served = {
                kind for name, kind in _SERVED.items() if session.supported_interactions[name]
            }
            self.accepts = frozenset(
                served | ({"mask"} if session.supports_initial_label else set())
            )
        self._session: Any = None
        self._sent: Embedding | None = None
        self._last: Prompt | None = None

    def encode(self, image: Tensor, place: Place | None = None) -> Embedding:
        """Keep an image ``(C, *S)``, which is sent with its first prompt."""
        spacing = (1.0,) * (image.ndim - 1) if place is None else place.spacing
        return Embedding(image[:1].float().cpu().numpy(), spacing, image.device)

    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` of one prompt: of one size, positive in the server's mask."""
        from nnInteractive.inference.remote.remote_session import SessionExpiredError

        try:
            return self._segment(embedding, prompt)
        except SessionExpiredError:  # the server forgets a client that waits for long
            self._session = self._sent = None
            return self._segment(embedding, prompt)

    def _segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        session = self._with(embedding)
        if prompt.last is None or prompt.last is not self._last:
            session.reset_interactions()
            if prompt.last is not None:
                self._segment(embedding, prompt.last)
        _send(session, prompt.added())
        self._last = prompt
        mask = torch.from_numpy(session.target_buffer > 0).to(embedding.device)
        return torch.where(mask, _SURE, -_SURE)

    def _with(self, embedding: Embedding) -> Any:
        """Return the session, with this scan on the server."""
        if self._session is None:
            self._session = self._connected()
            # Its thread would keep it alive, and so a place on the server.
            weakref.finalize(self, self._session.close)
        if self._sent is not embedding:
            self._session.set_image(embedding.image, {"spacing": embedding.spacing})
            self._session.set_target_buffer(np.zeros(embedding.image.shape[1:], np.uint8))
            self._sent, self._last = embedding, None
        return self._session

    def _connected(self) -> Any:
        try:
            from nnInteractive.inference.remote import remote_session
        except ImportError as error:
            raise InputError(
                "nninteractive-remote must have the package nninteractive-client, got none "
                f"({error}). Run pip install nninteractive-client."
            ) from None
        try:
            return remote_session.nnInteractiveRemoteInferenceSession(self._address, self._key)
        except Exception as error:  # of the network, of the key, or of a full server
            raise InputError(
                "address and key must be those of a server with nnInteractive's protocol, got "
                f"{self._address} ({type(error).__name__}: {error}). Start one, for example with "
                "`semisam serve`, or correct nninteractive-remote.address."
            ) from None


def _send(session: Any, new: Prompt) -> None:
    """Send the parts of a prompt; the last one asks for a prediction."""
    calls: list[tuple[Any, ...]] = []
    if new.mask is not None:
        calls.append((session.add_initial_seg_interaction, _drawn(new.mask > 0.5)))
    if new.box is not None:
        ends = [list(pair) for pair in zip(*new.box.tolist(), strict=True)]
        calls.append((session.add_bbox_interaction, ends, True))
    if "scribble" in new.more:
        calls.append((session.add_scribble_interaction, _drawn(new.more["scribble"] > 0), True))
    if new.points is not None and new.labels is not None:
        for point, label in zip(new.points.tolist(), new.labels.tolist(), strict=True):
            calls.append((session.add_point_interaction, point, bool(label)))
    for number, (call, *arguments) in enumerate(calls, start=1):
        call(*arguments, run_prediction=number == len(calls))


def _drawn(mask: Tensor) -> np.ndarray:
    return mask.cpu().numpy().astype(np.uint8)
