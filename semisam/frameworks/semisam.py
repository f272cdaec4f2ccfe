"""SemiSAM: the SAM-assisted consistency branch, around any method.

References:
    Zhang, Yang, Liu, Cheng, Qi. "SemiSAM: Enhancing semi-supervised medical image segmentation via
    SAM-assisted consistency regularization." 2023. https://arxiv.org/abs/2312.06316
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from semisam.core.backend import Backend, Prompter
from semisam.core.errors import PluginError
from semisam.core.framework import NO_NETWORK, Framework, check_loss_names, check_not_negative
from semisam.core.losses import dice_loss, entropy
from semisam.core.schedules import Ramp
from semisam.core.timing import now
from semisam.core.types import Batch, Clock, Step, Total
from semisam.frameworks._gate import Quality, agree, gate, measure
from semisam.frameworks.queries import Queries, join


class SemiSAM(Framework):
    """A method with the SAM branch: its losses plus a consistency with a promptable model.

    The branch adds ``lambda_s mean_U d(p, SAM(prompts(p)))`` to the losses of ``inner``.

    For every unlabeled row and foreground class, the method's own probability map is the proposal.
    The prompter turns it into a prompt without seeing any label. The promptable model's prediction
    becomes a target. In the paper ``d`` is the squared difference, and ``lambda_s = 0.1
    exp(-5 t/T)`` fades out (below equation 3): the constructor's defaults. Protocol ``default``
    takes the Dice loss with a constant weight (see `semisam.run.protocols`).

    The log holds the Dice of the predictions on the *labeled* rows, whose truth training may see
    (``sam_dice``; ``proposal_dice`` is that of the method itself). The model is queried for these
    rows as for the unlabeled ones, and they do not enter the objective. With ``gated`` that measure
    also scales ``lambda_s``, per class (see `semisam.frameworks._gate`).

    The branch is a Framework and wraps one. State dict, parameters and deployment are those of
    ``inner``, so checkpoints of the wrapped and the bare method are interchangeable. With
    ``weight`` 0 the two are bit-identical. The branch draws from its own generators, one per row
    and step, and no state passes from one row to the next.

    Differs from the published code:

    - Prompts come from the student's foreground probabilities (published: from the labels of the
      unlabeled cases, or from the background channel).
    - Uncertainty is a map that selects prompt candidates (published: one scalar, or unused).
    - The loss has a gradient.
    - Every row starts without a previous mask.
    - The mask is the predicted probability above 0.5 (published: above 0.622, a logit above 0.5).
    - The prompts are the prompter's (published: ten clicks, each corrected by the label).
    - The loss is over the foreground channels, which for two classes is the published mean over
      both.

    Args:
        inner: any method.
        backend: a promptable segmenter.
        prompter: makes prompts of a kind that the backend accepts.
        class_names: of all classes, for prompter and backend; empty: not known.
        role: ``loss``: the predictions are the target of one more loss, as in the paper;
            ``target``: they correct the inner method's own target if it takes guidance
            (`Framework.guided`), and else they are a loss.
        weight: ``lambda_s`` at the start, 0.1 in the paper; with ``role="target"`` the share of the
            predictions in the mean with the inner method's own target, at most 1.
        loss: ``mse``: the squared difference, over all voxels, as in the paper; ``dice``: one minus
            the Dice of proposal and prediction, in which small and large organs count alike.
        ramp_rate: rate of ``exp(-ramp_rate t/T)``, by which ``lambda_s`` fades; 5 in the paper, 0
            for a constant weight.
        ramp_power: exponent on the fraction of training: 1 in the paper, 2 in the published code.
        ramp_every: iterations between steps of the ramp (published: 150).
        target: ``hard``: the predicted mask, as published; ``soft``: its probability.
        gated: scale ``lambda_s`` by the quality of the predictions on this batch.
        measure_every: measure on the labeled rows in each Nth iteration that queries the model, so
            every ``N * every`` iterations; 0: never. With ``gated`` each of these measures.
        every: query the model every N iterations and multiply the weight by N. Predictions that
            correct a target keep their share, so they count in an Nth of the steps.
        floor: do not query the model where ``lambda_s`` is below this.
        several: query also for a class that is several components in a labeled mask, of which a
            prompt marks one. Without it the run, which knows the labels, leaves such classes out.
        seed: of the prompts.

    Raises:
        ValueError: if an option is out of range.
        PluginError: if the prompter makes a kind of prompt that the backend does not accept.
    """

    own_losses = frozenset({"sam"})

    def __init__(
        self,
        inner: Framework,
        backend: Backend,
        prompter: Prompter,
        class_names: Sequence[str] = (),
        *,
        role: Literal["loss", "target"] = "loss",
        weight: float = 0.1,
        loss: Literal["mse", "dice"] = "mse",
        ramp_rate: float = 5.0,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
        target: Literal["hard", "soft"] = "hard",
        gated: bool = False,
        measure_every: int = 10,
        every: int = 1,
        floor: float = 0.0,
        several: bool = True,
        seed: int = 0,
    ) -> None:
        # Unlike other methods, the branch builds no network; it wraps a method.
        super().__init__(build=NO_NETWORK, num_classes=inner.num_classes)
        self.queries = Queries(backend, prompter, class_names, seed=seed)
        self.inner = inner
        check_not_negative(weight=weight, floor=floor, ramp_rate=ramp_rate)
        self.weight = Ramp(weight, rising=False, power=ramp_power, every=ramp_every, rate=ramp_rate)
        self.role = role
        self.loss = loss
        self.target = target
        self.gated = gated
        if role == "target" and weight > 1:
            raise ValueError(f"weight must be at most 1 with role=target, got {weight}.")
        if every < 1 or measure_every < 0:
            raise ValueError(
                f"every must be at least 1 and measure_every not negative, got {every} and "
                f"{measure_every}."
            )
        self.measure_every = measure_every
        self.every = every
        self.floor = floor
        self.several = several
        self.classes = tuple(range(1, self.num_classes))
        self.seed = seed
        # The branch adds an unlabeled term, so it needs unlabeled rows even if the method does not.
        self.uses_unlabeled = inner.uses_unlabeled or weight > 0
        self.trains = inner.trains
        of_backend = getattr(backend, "wants_place", False)
        self.wants_places = inner.wants_places or of_backend

    def forward(self, image: Tensor) -> Tensor:
        """Return the inner method's probabilities; if it trains nothing, SAM's for its proposal."""
        probs: Tensor = self.inner(image)
        return probs if self.trains else self.queries.of_maps(image, probs, self.classes)

    def learn(self, cases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Give the inner method the labeled scans."""
        self.inner.learn(cases)

    def leave_out(self, classes: Collection[int]) -> None:
        """Do not query the model for some classes; without any, train as the inner method does."""
        self.classes = tuple(k for k in self.classes if k not in classes)
        if not self.classes:
            self.uses_unlabeled = self.inner.uses_unlabeled

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return the inner method's step with the branch: one more loss, or a corrected target."""
        plain = Batch(
            batch.image,
            batch.label,
            rows=batch.rows,
            places=batch.places,
            inside=batch.inside,
        )
        idle = self.weight.weight == 0 or not self.classes
        if idle or batch.num_labeled == len(batch.image):
            return self.inner.training_step(plain, clock)
        weight = self.weight(clock)
        querying = clock.step % self.every == 0 and weight >= self.floor
        figures: dict[str, float] = {}

        def correct(target: Tensor) -> Tensor:
            joined, found = self._correct(batch, target, clock)
            figures.update(found)
            return joined

        if self.role == "target" and querying:
            self.inner.guide = correct
        try:
            step = self.inner.training_step(plain, clock)
        finally:
            self.inner.guide = None
        check_loss_names(step.losses, self.inner)
        losses = dict(step.losses)
        # A method that takes no guidance gets the loss.
        if querying and not figures:
            term, figures = self._consistency(batch, step, clock)
            losses["sam"] = self.every * weight * term
        elif self.role == "loss":
            losses["sam"] = step.probs.new_zeros(())
        usual = {"sam_weight": weight, "sam_calls": Total(), "sam_seconds": Total()}
        return replace(step, losses=losses, metrics={**step.metrics, **usual, **figures})

    def after_update(self, clock: Clock) -> None:
        """Run the inner method's update."""
        self.inner.after_update(clock)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the inner method's parameter groups."""
        return self.inner.param_groups()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inner method's state, since the branch has no state."""
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the inner method's state."""
        return self.inner.load_state_dict(state_dict, strict=strict, assign=assign)

    def _consistency(
        self, batch: Batch, step: Step, clock: Clock
    ) -> tuple[Tensor, dict[str, float]]:
        """Return ``mean_U d(p, SAM(prompts(p)))``, each class by its share of the weight."""
        predictions, shares, figures = self._query_rows(batch, step, clock)
        pairs = {
            (i, k): (step.probs[i, k], found)
            for i in range(batch.num_labeled, len(batch.image))
            for k, found in predictions[i].items()
        }
        if not pairs:
            return step.probs.new_zeros(()), figures
        kept = [shares[k] for _, k in pairs]
        term = sam_loss(list(pairs.values()), self.target, kept, self.loss)
        if len(shares) < len(self.classes):  # those with a shut gate count, with share 0
            term = term * len(shares) / len(self.classes)
        return term, figures

    @torch.no_grad()
    def _correct(
        self, batch: Batch, target: Tensor, clock: Clock
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the mean of a target ``(U, K, *S)`` and the predictions for it as a proposal."""
        labeled = batch.num_labeled
        expected = (len(batch.image) - labeled, self.num_classes, *batch.image.shape[2:])
        if tuple(target.shape) != expected:
            raise PluginError(
                f"guided must get the probabilities of the unlabeled rows, {expected}, got "
                f"{tuple(target.shape)} of method {type(self.inner).__name__}. Correct the method."
            )
        known = target.new_zeros((labeled, *target.shape[1:]))
        if self._measures(clock):
            with _evaluated(self.inner) as averages:
                rows = len(batch.image) if averages else labeled
                known = self.inner(batch.image[:rows])[:labeled]
        step = Step({}, torch.cat([known.to(target), target]))
        predictions, shares, figures = self._query_rows(batch, step, clock)
        weight = self.weight(clock)
        of_rows = [predictions[labeled + row] for row in range(len(target))]
        weights = {k: weight * share for k, share in shares.items()}
        return join(target, of_rows, weights), figures

    def _measures(self, clock: Clock) -> bool:
        """Return whether this step measures the predictions on the labeled rows."""
        due = self.measure_every > 0 and clock.step % (self.measure_every * self.every) == 0
        return self.gated or due

    def _query_rows(
        self, batch: Batch, step: Step, clock: Clock
    ) -> tuple[dict[int, dict[int, Tensor]], dict[int, float], dict[str, float]]:
        """Return predictions by row and class, each class's share of the weight, and figures."""
        started = now(batch.image.device)
        rows = range(batch.num_labeled, len(batch.image))
        measured = range(batch.num_labeled) if self._measures(clock) else ()
        proposal = self._proposal(batch, step)
        predictions, calls = self._predictions(batch, proposal, measured, clock, self.classes)
        masks = step.probs.detach() > 0.5
        quality = {
            k: measure(masks[:, k], batch.label, _of_class(predictions, k), k)
            for k in (self.classes if measured else ())
        }
        # The gate of a class that no labeled row shows is shut, whatever the model predicts.
        open_to = [k for k in self.classes if not self.gated or quality[k].agreement]
        found, made = self._predictions(batch, proposal, rows, clock, open_to)
        shares = dict.fromkeys(open_to, 1.0)
        figures: dict[str, float] = {}
        if measured:
            quality |= {
                k: replace(quality[k], agreement_unlabeled=agree(masks[:, k], _of_class(found, k)))
                for k in open_to
            }
            figures |= _figures(quality.values())
            if self.gated:
                shares = {k: gate(quality[k]) for k in open_to}
                figures["sam_gate"] = sum(shares.values()) / len(self.classes)
        queried = sum(len(of_row) for of_row in found.values())
        figures["sam_queried"] = Total(queried)
        figures["sam_skipped"] = Total(len(rows) * len(self.classes) - queried)
        figures["sam_calls"] = Total(calls + made)
        figures["sam_seconds"] = Total(now(batch.image.device) - started)
        return self._exchanged(batch, found, clock), shares, figures

    def _exchanged(
        self, batch: Batch, predictions: dict[int, dict[int, Tensor]], clock: Clock
    ) -> dict[int, dict[int, Tensor]]:
        """Return the predictions that count. A control exchanges them after they were measured."""
        return predictions

    def _predictions(
        self,
        batch: Batch,
        proposal: tuple[Tensor, Tensor],
        rows: Sequence[int],
        clock: Clock,
        classes: Sequence[int],
    ) -> tuple[dict[int, dict[int, Tensor]], int]:
        """Return the predictions by row and class, and the number of calls of the model."""
        probs, uncertainty = proposal
        predictions: dict[int, dict[int, Tensor]] = {}
        calls = 0
        for i in rows:
            # The prompts of a row do not depend on how the batch is divided.
            place = None if batch.places is None else batch.places[i]
            predictions[i], made = self.queries.of_row(
                batch.image[i],
                probs[i],
                uncertainty[i, 0],
                clock.step,
                batch.number(i),
                classes,
                place,
            )
            calls += made
        return predictions, calls

    def _proposal(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Return the maps ``(B, K, *S)`` and their uncertainty ``(B, 1, *S)`` for the prompts."""
        probs = step.probs.detach()
        return probs, entropy(probs) if step.uncertainty is None else step.uncertainty


def sam_loss(
    pairs: list[tuple[Tensor, Tensor]],
    target: Literal["hard", "soft"],
    shares: list[float] | None = None,
    loss: Literal["mse", "dice"] = "mse",
) -> Tensor:
    """Return the mean of ``d(p, y)`` over (proposal, prediction) pairs of ``(*S)`` maps in [0, 1].

    Args:
        pairs: the differentiable proposal and the backend's prediction, per row and class.
        target: ``hard``: ``y = [prediction > 0.5]``; ``soft``: ``y`` is the prediction.
        shares: factors of the pairs' terms; ``None``: 1.
        loss: ``mse``: ``d`` is the mean of ``(p - y)^2``; ``dice``: ``1 - D(p, y)``.
    """
    prob = torch.stack([p for p, _ in pairs])
    prediction = torch.stack([a for _, a in pairs])
    y = (prediction > 0.5).to(prob.dtype) if target == "hard" else prediction
    if loss == "dice":
        terms = torch.stack([dice_loss(p, t) for p, t in zip(prob, y, strict=True)])
    else:
        terms = (prob - y).square().flatten(1).mean(1)
    if shares is None or all(share == 1.0 for share in shares):
        return terms.mean()
    return (terms * terms.new_tensor(shares)).mean()


def _of_class(predictions: Mapping[int, Mapping[int, Tensor]], k: int) -> list[tuple[int, Tensor]]:
    """Return row and predicted mask ``(*S)`` of one class, where the model was queried for it."""
    return [(row, per_class[k] > 0.5) for row, per_class in predictions.items() if k in per_class]


def _figures(qualities: Collection[Quality]) -> dict[str, float]:
    """Return the means over classes for the log, without figures that every class lacks."""
    named = {
        "sam_dice": [q.prediction for q in qualities],
        "proposal_dice": [q.proposal for q in qualities],
        "sam_agreement": [q.agreement_unlabeled for q in qualities],
    }
    found = {name: [v for v in values if v is not None] for name, values in named.items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


@contextlib.contextmanager
def _evaluated(module: torch.nn.Module) -> Iterator[list[Any]]:
    """Set a module's parts to evaluation, but BatchNorm to this batch, and back to what each was.

    A method makes its target of unlabeled rows with the statistics of a batch. BatchNorm's running
    averages lag behind, so with them the maps of the labeled rows would be worse than that target.
    They are not updated here, and those parts are yielded.
    """
    modes = [(part, part.training) for part in module.modules()]
    averages: list[Any] = [
        part for part in module.modules() if getattr(part, "track_running_stats", False)
    ]
    module.eval()
    for part in averages:
        part.training, part.track_running_stats = True, False
    try:
        yield averages
    finally:
        for part in averages:
            part.track_running_stats = True
        for part, training in modes:
            part.training = training
