"""What methods are made of beyond the contract: models, training, estimates, answers, vectors. Public, for plugins too.

::

    from nbadapt import parts

    model, tokenizer = parts.load_model(job.model, job.device, job.dtype)     # shares its weights with other runs
    parts.estimate_training(model, job, tensors)                              # exact parameters, predicted peak
    parts.train(model, tokenizer, job, emit, parts.LanguageModel(model, tokenizer).answer)

Nothing else in ``nbadapt.engines``, ``nbadapt.models`` and so on is promised to stay. Importing this module imports
none of it: each name is looked up when it is first used. The base classes of the built-in methods, which put these
parts together, are in `nbadapt_plugins.bases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import lazy

if TYPE_CHECKING:
    from nbadapt.capture import quiet_libraries
    from nbadapt.engines.classify import Classifier
    from nbadapt.engines.embed import Embedder, check_embeddable
    from nbadapt.engines.embed import memory as embedding_memory
    from nbadapt.engines.encoding import collate, encode, length_limit
    from nbadapt.engines.generate import LanguageModel
    from nbadapt.engines.supervised import train
    from nbadapt.engines.trainer import load_trained, trained_tensors
    from nbadapt.engines.training_config import TrainingConfig, optimizer_steps
    from nbadapt.engines.training_estimate import Objective, count_parameters
    from nbadapt.engines.training_estimate import estimate as estimate_training
    from nbadapt.indexing.index import Index
    from nbadapt.memory import gibibytes
    from nbadapt.models import load as load_model
    from nbadapt.models import load_classifier, load_tokenizer, read_config, skeleton
    from nbadapt.named import RUN_OR_FUNCTION
    from nbadapt.steering import Steering
    from nbadapt.steering import offer as offer_steering
    from nbadapt.store import new_folder
    from nbadapt.template import fill, placeholders

__all__ = [
    "RUN_OR_FUNCTION",
    "Classifier",
    "Embedder",
    "Index",
    "LanguageModel",
    "Objective",
    "Steering",
    "TrainingConfig",
    "check_embeddable",
    "collate",
    "count_parameters",
    "embedding_memory",
    "encode",
    "estimate_training",
    "fill",
    "gibibytes",
    "length_limit",
    "load_classifier",
    "load_model",
    "load_tokenizer",
    "load_trained",
    "new_folder",
    "offer_steering",
    "optimizer_steps",
    "placeholders",
    "quiet_libraries",
    "read_config",
    "skeleton",
    "train",
    "trained_tensors",
]

_HOMES = {
    "RUN_OR_FUNCTION": "nbadapt.named:RUN_OR_FUNCTION",
    "Classifier": "nbadapt.engines.classify:Classifier",
    "Embedder": "nbadapt.engines.embed:Embedder",
    "Index": "nbadapt.indexing.index:Index",
    "LanguageModel": "nbadapt.engines.generate:LanguageModel",
    "Objective": "nbadapt.engines.training_estimate:Objective",
    "Steering": "nbadapt.steering:Steering",
    "TrainingConfig": "nbadapt.engines.training_config:TrainingConfig",
    "check_embeddable": "nbadapt.engines.embed:check_embeddable",
    "collate": "nbadapt.engines.encoding:collate",
    "count_parameters": "nbadapt.engines.training_estimate:count_parameters",
    "embedding_memory": "nbadapt.engines.embed:memory",
    "encode": "nbadapt.engines.encoding:encode",
    "estimate_training": "nbadapt.engines.training_estimate:estimate",
    "fill": "nbadapt.template:fill",
    "gibibytes": "nbadapt.memory:gibibytes",
    "length_limit": "nbadapt.engines.encoding:length_limit",
    "load_classifier": "nbadapt.models:load_classifier",
    "load_model": "nbadapt.models:load",
    "load_tokenizer": "nbadapt.models:load_tokenizer",
    "load_trained": "nbadapt.engines.trainer:load_trained",
    "new_folder": "nbadapt.store:new_folder",
    "offer_steering": "nbadapt.steering:offer",
    "optimizer_steps": "nbadapt.engines.training_config:optimizer_steps",
    "placeholders": "nbadapt.template:placeholders",
    "quiet_libraries": "nbadapt.capture:quiet_libraries",
    "read_config": "nbadapt.models:read_config",
    "skeleton": "nbadapt.models:skeleton",
    "train": "nbadapt.engines.supervised:train",
    "trained_tensors": "nbadapt.engines.trainer:trained_tensors",
}

__getattr__ = lazy.names(__name__, _HOMES)
