"""The base classes of the built-in methods, public for methods of other packages.

::

    Method                          the contract itself: nbadapt.method
    ├── TrainedMethod               parameters on a frozen base, trained with gradients, stored in a folder
    │   ├── PeftMethod              an adapter of peft: say its config
    │   │   ├── PromptLearningMethod    learned tokens, keys or values
    │   │   └── PairMethod              LoRA learned from preference rows by a trainer of trl
    │   └── CopiedMethod            some of the model's own parameters: say which
    ├── TextBaseline                texts to labels without a language model: say the scikit-learn pipeline
    └── PromptMethod                asks a model, and trains nothing
        ├── DemonstrationMethod     shows examples first
        └── CandidateMethod         compares several prompts

`CandidateMethod` works with a `Ground` (the rows), a `Search` (what it comes to), `Scoring` and `Steps`, which compare
each `Tried` prompt with the others; `PairMethod` works with a `PairTrainer`. ``nbadapt-example`` is a method made of
`PeftMethod`. Whatever else is in this package is the built-in methods' own and may change with any version. What the
classes are made of is in `nbadapt.parts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import lazy

if TYPE_CHECKING:
    from nbadapt.heads import head_modules
    from nbadapt_plugins._candidates import CandidateConfig, CandidateMethod, Load, Search
    from nbadapt_plugins._copied import CopiedMethod
    from nbadapt_plugins._copies import train_copies
    from nbadapt_plugins._demonstrations import DemonstrationConfig, DemonstrationMethod
    from nbadapt_plugins._feedback import PairMethod, PairSettings
    from nbadapt_plugins._feedback_training import PairTrainer
    from nbadapt_plugins._ground import Ground
    from nbadapt_plugins._linear_layers import adapted_layers, linear_layers, stored_transposed, targets
    from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
    from nbadapt_plugins._prompt_learning import PromptLearningMethod, VirtualTokensConfig
    from nbadapt_plugins._prompting import PromptConfig, PromptMethod
    from nbadapt_plugins._scoring import Score, Scoring, Steps, Tried
    from nbadapt_plugins._text_baseline import BaselineConfig, TextBaseline
    from nbadapt_plugins._trained import (
        FrozenBaseConfig,
        TrainedMethod,
        base_as_stored,
        own_weights,
        seeded,
        switch_off_dropout,
    )

__all__ = [
    "TASK_TYPES",
    "BaselineConfig",
    "CandidateConfig",
    "CandidateMethod",
    "CopiedMethod",
    "DemonstrationConfig",
    "DemonstrationMethod",
    "FrozenBaseConfig",
    "Ground",
    "Load",
    "PairMethod",
    "PairSettings",
    "PairTrainer",
    "PeftMethod",
    "PromptConfig",
    "PromptLearningMethod",
    "PromptMethod",
    "Score",
    "Scoring",
    "Search",
    "Steps",
    "TextBaseline",
    "TrainedMethod",
    "Tried",
    "VirtualTokensConfig",
    "adapted_layers",
    "base_as_stored",
    "head_modules",
    "linear_layers",
    "own_weights",
    "seeded",
    "stored_transposed",
    "switch_off_dropout",
    "targets",
    "train_copies",
]

_HOMES = {
    "TASK_TYPES": "nbadapt_plugins._peft:TASK_TYPES",
    "BaselineConfig": "nbadapt_plugins._text_baseline:BaselineConfig",
    "CandidateConfig": "nbadapt_plugins._candidates:CandidateConfig",
    "CandidateMethod": "nbadapt_plugins._candidates:CandidateMethod",
    "CopiedMethod": "nbadapt_plugins._copied:CopiedMethod",
    "DemonstrationConfig": "nbadapt_plugins._demonstrations:DemonstrationConfig",
    "DemonstrationMethod": "nbadapt_plugins._demonstrations:DemonstrationMethod",
    "FrozenBaseConfig": "nbadapt_plugins._trained:FrozenBaseConfig",
    "Ground": "nbadapt_plugins._ground:Ground",
    "Load": "nbadapt_plugins._candidates:Load",
    "PairMethod": "nbadapt_plugins._feedback:PairMethod",
    "PairSettings": "nbadapt_plugins._feedback:PairSettings",
    "PairTrainer": "nbadapt_plugins._feedback_training:PairTrainer",
    "PeftMethod": "nbadapt_plugins._peft:PeftMethod",
    "PromptConfig": "nbadapt_plugins._prompting:PromptConfig",
    "PromptLearningMethod": "nbadapt_plugins._prompt_learning:PromptLearningMethod",
    "PromptMethod": "nbadapt_plugins._prompting:PromptMethod",
    "Score": "nbadapt_plugins._scoring:Score",
    "Scoring": "nbadapt_plugins._scoring:Scoring",
    "Search": "nbadapt_plugins._candidates:Search",
    "Steps": "nbadapt_plugins._scoring:Steps",
    "TextBaseline": "nbadapt_plugins._text_baseline:TextBaseline",
    "TrainedMethod": "nbadapt_plugins._trained:TrainedMethod",
    "Tried": "nbadapt_plugins._scoring:Tried",
    "VirtualTokensConfig": "nbadapt_plugins._prompt_learning:VirtualTokensConfig",
    "adapted_layers": "nbadapt_plugins._linear_layers:adapted_layers",
    "base_as_stored": "nbadapt_plugins._trained:base_as_stored",
    "head_modules": "nbadapt.heads:head_modules",
    "linear_layers": "nbadapt_plugins._linear_layers:linear_layers",
    "own_weights": "nbadapt_plugins._trained:own_weights",
    "seeded": "nbadapt_plugins._trained:seeded",
    "stored_transposed": "nbadapt_plugins._linear_layers:stored_transposed",
    "switch_off_dropout": "nbadapt_plugins._trained:switch_off_dropout",
    "targets": "nbadapt_plugins._linear_layers:targets",
    "train_copies": "nbadapt_plugins._copies:train_copies",
}

__getattr__ = lazy.names(__name__, _HOMES)
