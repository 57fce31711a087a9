"""Builds the configured optimiser and learning-rate schedule."""

from typing import Any

import jax
import optax

from experiments.settings.config import Optimisation
from stn_jax.nn import is_localisation
from stn_jax.training import Params, scale_updates


def make_schedule(settings: Optimisation, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at each step."""
    peak, total = settings.learning_rate, settings.epochs * steps_per_epoch
    warmup = round(settings.warmup * steps_per_epoch)
    after = max(total - warmup, 1)
    schedule = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, after),
        "step": optax.piecewise_constant_schedule(peak, {after // 3: 0.1, 2 * after // 3: 0.1}),
    }[settings.schedule]
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), schedule], [warmup])


def make_optimizer(settings: Optimisation, steps_per_epoch: int) -> optax.GradientTransformation:
    """The configured optimiser."""
    rate = make_schedule(settings, steps_per_epoch)
    chain = []
    if settings.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.optimizer == "sgd":
        chain.append(optax.sgd(rate, momentum=settings.momentum))
    elif settings.optimizer == "adam":
        chain.append(optax.adam(rate))
    else:
        chain.append(optax.adamw(rate, weight_decay=settings.weight_decay, mask=_kernels))
    if settings.localisation_lr is not None:
        factor = settings.localisation_lr / settings.learning_rate
        chain.append(scale_updates(factor, is_localisation))
    return optax.chain(*chain)


def _kernels(params: Params) -> Any:
    """Selects the parameters that decay. Biases do not: one of them is the initial theta."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
