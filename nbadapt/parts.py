"""What methods are made of beyond the contract: models, training, estimates, answers, vectors. Public, for plugins too.

::

    from nbadapt import parts

    model, tokenizer = parts.load_model(job.model, job.device, job.dtype)     # shares its weights with other runs
    parts.estimate_training(model, job, tensors)                              # exact parameters, predicted peak
    parts.train(model, tokenizer, job, emit, parts.LanguageModel(model, tokenizer).answer)

Everything that the built-in methods take from nbadapt is here or in the contract. Nothing else in ``nbadapt.engines``,
``nbadapt.models`` and so on is promised to stay. Importing this module imports none of it: each name is looked up when
it is first used. The base classes of the built-in methods, which put these parts together, are in
`nbadapt_plugins.bases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import lazy

if TYPE_CHECKING:
    from nbadapt.capture import quiet_libraries
    from nbadapt.devices import best_device, best_dtype
    from nbadapt.endpoints import open_model as open_endpoint
    from nbadapt.engines.answering import Answering, AnswerReader, Query, Reply
    from nbadapt.engines.asking import EndpointLimits
    from nbadapt.engines.batches import inference
    from nbadapt.engines.choice import request as choice_request
    from nbadapt.engines.choice import with_choice
    from nbadapt.engines.classify import Classifier, FeatureClassifier
    from nbadapt.engines.embed import Embedder, Pooling, check_embeddable, pooled
    from nbadapt.engines.embed import memory as embedding_memory
    from nbadapt.engines.embed import report as report_embedding
    from nbadapt.engines.encoding import Encoded, collate, encode, length_limit
    from nbadapt.engines.evaluation import ask, evaluate, tell_reused
    from nbadapt.engines.evaluation import same as same_answer
    from nbadapt.engines.evaluation import steps as answer_steps
    from nbadapt.engines.figures import called as metric_values
    from nbadapt.engines.figures import check as check_metric
    from nbadapt.engines.figures import of_own as own_figures
    from nbadapt.engines.fitting import AskedRow, Fitting, Questions, ShotSelection
    from nbadapt.engines.generate import LanguageModel
    from nbadapt.engines.grounding import Grounded, Grounding, special_tokens
    from nbadapt.engines.judging import Judge
    from nbadapt.engines.judging import check as check_judge
    from nbadapt.engines.judging import load as load_judge
    from nbadapt.engines.nearest import ranking as similarity_ranking
    from nbadapt.engines.nearest import weight_bytes as embedding_weight_bytes
    from nbadapt.engines.pairs import EncodedPairs, Pair, check_pairs, encode_pairs, longest_pairs
    from nbadapt.engines.ppo import PpoTrainer
    from nbadapt.engines.ppo_config import PpoConfig
    from nbadapt.engines.ppo_estimate import estimate as estimate_ppo
    from nbadapt.engines.prompt_log import write as write_prompts
    from nbadapt.engines.prompted import Prompted
    from nbadapt.engines.prompts import Shot, check_filled, default_template, shots_of
    from nbadapt.engines.prompts import content as prompt_content
    from nbadapt.engines.prompts import fill as fill_prompt
    from nbadapt.engines.prompts import target as expected_answer
    from nbadapt.engines.prompts import values as row_values
    from nbadapt.engines.racing import RaceRound, race, told_apart
    from nbadapt.engines.racing import chance as paired_p_value
    from nbadapt.engines.racing import cost as race_cost
    from nbadapt.engines.racing import schedule as race_schedule
    from nbadapt.engines.reward_model import RewardModel
    from nbadapt.engines.reward_model import calibration as margin_calibration
    from nbadapt.engines.rollout import ActorCritic
    from nbadapt.engines.rough_time import seconds as answer_seconds
    from nbadapt.engines.supervised import Prepared, optimizer_class, train, trainer_arguments, trainer_settings
    from nbadapt.engines.supervised import work as run_trainer
    from nbadapt.engines.templated import Templated, instructed
    from nbadapt.engines.tokens import (
        Prompt,
        as_openings,
        as_text,
        context_length,
        encode_completion,
        encode_prompt,
        rough_tokens,
    )
    from nbadapt.engines.trainer import LengthGroupedSampler, ResumableTrainer, load_trained, trained_tensors
    from nbadapt.engines.training_config import TrainingConfig, optimizer_steps
    from nbadapt.engines.training_estimate import Objective, count_parameters
    from nbadapt.engines.training_estimate import estimate as estimate_training
    from nbadapt.engines.training_memory import autocasts
    from nbadapt.engines.training_report import Show as ShowRows
    from nbadapt.engines.training_report import TrainingReporter
    from nbadapt.engines.training_report import answered as show_answers
    from nbadapt.heads import Head, head_modules
    from nbadapt.history import History
    from nbadapt.indexing.index import Hit, Index
    from nbadapt.indexing.store import EVERYWHERE, checked_vectors, metadata_json, question_words, storable
    from nbadapt.indexing.store import check_width as check_vector_width
    from nbadapt.indexing.store import parts as statement_batches
    from nbadapt.memory import available_bytes, gibibytes
    from nbadapt.metrics import accuracy, macro_f1, wilson_interval
    from nbadapt.model_names import resolve as resolve_model
    from nbadapt.models import base_ref, keeping_no_base, keeps_head, load_classifier
    from nbadapt.models import load as load_model
    from nbadapt.models import shell as model_shell
    from nbadapt.named import RUN_OR_FUNCTION
    from nbadapt.options import DTYPES
    from nbadapt.pretrained import Quantization, load_tokenizer, read_config, skeleton, stored_dtype
    from nbadapt.pretrained import read_weights as load_apart
    from nbadapt.steering import Steering
    from nbadapt.steering import offer as offer_steering
    from nbadapt.store import new_folder, read_events, read_job, read_json, write_json, write_outcome
    from nbadapt.store import open as open_run
    from nbadapt.template import fill, placeholders

__all__ = [
    "DTYPES",
    "EVERYWHERE",
    "RUN_OR_FUNCTION",
    "ActorCritic",
    "AnswerReader",
    "Answering",
    "AskedRow",
    "Classifier",
    "Embedder",
    "Encoded",
    "EncodedPairs",
    "EndpointLimits",
    "FeatureClassifier",
    "Fitting",
    "Grounded",
    "Grounding",
    "Head",
    "History",
    "Hit",
    "Index",
    "Judge",
    "LanguageModel",
    "LengthGroupedSampler",
    "Objective",
    "Pair",
    "Pooling",
    "PpoConfig",
    "PpoTrainer",
    "Prepared",
    "Prompt",
    "Prompted",
    "Quantization",
    "Query",
    "Questions",
    "RaceRound",
    "Reply",
    "ResumableTrainer",
    "RewardModel",
    "Shot",
    "ShotSelection",
    "ShowRows",
    "Steering",
    "Templated",
    "TrainingConfig",
    "TrainingReporter",
    "accuracy",
    "answer_seconds",
    "answer_steps",
    "as_openings",
    "as_text",
    "ask",
    "autocasts",
    "available_bytes",
    "base_ref",
    "best_device",
    "best_dtype",
    "check_embeddable",
    "check_filled",
    "check_judge",
    "check_metric",
    "check_pairs",
    "check_vector_width",
    "checked_vectors",
    "choice_request",
    "collate",
    "context_length",
    "count_parameters",
    "default_template",
    "embedding_memory",
    "embedding_weight_bytes",
    "encode",
    "encode_completion",
    "encode_pairs",
    "encode_prompt",
    "estimate_ppo",
    "estimate_training",
    "evaluate",
    "expected_answer",
    "fill",
    "fill_prompt",
    "gibibytes",
    "head_modules",
    "inference",
    "instructed",
    "keeping_no_base",
    "keeps_head",
    "length_limit",
    "load_apart",
    "load_classifier",
    "load_judge",
    "load_model",
    "load_tokenizer",
    "load_trained",
    "longest_pairs",
    "macro_f1",
    "margin_calibration",
    "metadata_json",
    "metric_values",
    "model_shell",
    "new_folder",
    "offer_steering",
    "open_endpoint",
    "open_run",
    "optimizer_class",
    "optimizer_steps",
    "own_figures",
    "paired_p_value",
    "placeholders",
    "pooled",
    "prompt_content",
    "question_words",
    "quiet_libraries",
    "race",
    "race_cost",
    "race_schedule",
    "read_config",
    "read_events",
    "read_job",
    "read_json",
    "report_embedding",
    "resolve_model",
    "rough_tokens",
    "row_values",
    "run_trainer",
    "same_answer",
    "shots_of",
    "show_answers",
    "similarity_ranking",
    "skeleton",
    "special_tokens",
    "statement_batches",
    "storable",
    "stored_dtype",
    "tell_reused",
    "told_apart",
    "train",
    "trained_tensors",
    "trainer_arguments",
    "trainer_settings",
    "wilson_interval",
    "with_choice",
    "write_json",
    "write_outcome",
    "write_prompts",
]

# Subject, a heading of the page that describes them -> module -> names; "a as b" is a there, and b here.
_SUBJECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Models and devices": {
        "nbadapt.capture": ("quiet_libraries",),
        "nbadapt.devices": ("best_device", "best_dtype"),
        "nbadapt.endpoints": ("open_model as open_endpoint",),
        "nbadapt.engines.asking": ("EndpointLimits",),
        "nbadapt.engines.batches": ("inference",),
        "nbadapt.heads": ("Head", "head_modules"),
        "nbadapt.memory": ("available_bytes", "gibibytes"),
        "nbadapt.model_names": ("resolve as resolve_model",),
        "nbadapt.models": (
            "base_ref",
            "keeping_no_base",
            "keeps_head",
            "load as load_model",
            "load_classifier",
            "shell as model_shell",
        ),
        "nbadapt.options": ("DTYPES",),
        "nbadapt.pretrained": (
            "Quantization",
            "load_tokenizer",
            "read_config",
            "read_weights as load_apart",
            "skeleton",
            "stored_dtype",
        ),
    },
    "Runs and their files": {
        "nbadapt.history": ("History",),
        "nbadapt.named": ("RUN_OR_FUNCTION",),
        "nbadapt.steering": ("Steering", "offer as offer_steering"),
        "nbadapt.store": (
            "new_folder",
            "open as open_run",
            "read_events",
            "read_job",
            "read_json",
            "write_json",
            "write_outcome",
        ),
    },
    "Training": {
        "nbadapt.engines.encoding": ("Encoded", "collate", "encode", "length_limit"),
        "nbadapt.engines.supervised": (
            "Prepared",
            "optimizer_class",
            "train",
            "trainer_arguments",
            "trainer_settings",
            "work as run_trainer",
        ),
        "nbadapt.engines.trainer": ("LengthGroupedSampler", "ResumableTrainer", "load_trained", "trained_tensors"),
        "nbadapt.engines.training_config": ("TrainingConfig", "optimizer_steps"),
        "nbadapt.engines.training_estimate": ("Objective", "count_parameters", "estimate as estimate_training"),
        "nbadapt.engines.training_memory": ("autocasts",),
        "nbadapt.engines.training_report": ("Show as ShowRows", "TrainingReporter", "answered as show_answers"),
    },
    "Preferences and rewards": {
        "nbadapt.engines.judging": ("Judge", "check as check_judge", "load as load_judge"),
        "nbadapt.engines.pairs": ("EncodedPairs", "Pair", "check_pairs", "encode_pairs", "longest_pairs"),
        "nbadapt.engines.ppo": ("PpoTrainer",),
        "nbadapt.engines.ppo_config": ("PpoConfig",),
        "nbadapt.engines.ppo_estimate": ("estimate as estimate_ppo",),
        "nbadapt.engines.reward_model": ("RewardModel", "calibration as margin_calibration"),
        "nbadapt.engines.rollout": ("ActorCritic",),
    },
    "Vectors of texts": {
        "nbadapt.engines.classify": ("FeatureClassifier",),
        "nbadapt.engines.embed": (
            "Embedder",
            "Pooling",
            "check_embeddable",
            "memory as embedding_memory",
            "pooled",
            "report as report_embedding",
        ),
        "nbadapt.engines.nearest": ("ranking as similarity_ranking", "weight_bytes as embedding_weight_bytes"),
    },
    "Prompts and demonstrations": {
        "nbadapt.engines.choice": ("request as choice_request", "with_choice"),
        "nbadapt.engines.fitting": ("AskedRow", "Fitting", "Questions", "ShotSelection"),
        "nbadapt.engines.prompts": (
            "Shot",
            "check_filled",
            "content as prompt_content",
            "default_template",
            "fill as fill_prompt",
            "shots_of",
            "target as expected_answer",
            "values as row_values",
        ),
        "nbadapt.engines.templated": ("instructed",),
        "nbadapt.engines.tokens": (
            "Prompt",
            "as_openings",
            "as_text",
            "context_length",
            "encode_completion",
            "encode_prompt",
            "rough_tokens",
        ),
        "nbadapt.template": ("fill", "placeholders"),
    },
    "Answers": {
        "nbadapt.engines.answering": ("AnswerReader", "Answering", "Query", "Reply"),
        "nbadapt.engines.classify": ("Classifier",),
        "nbadapt.engines.evaluation": (
            "ask",
            "evaluate",
            "same as same_answer",
            "steps as answer_steps",
            "tell_reused",
        ),
        "nbadapt.engines.generate": ("LanguageModel",),
        "nbadapt.engines.grounding": ("Grounded", "Grounding", "special_tokens"),
        "nbadapt.engines.prompt_log": ("write as write_prompts",),
        "nbadapt.engines.prompted": ("Prompted",),
        "nbadapt.engines.rough_time": ("seconds as answer_seconds",),
        "nbadapt.engines.templated": ("Templated",),
    },
    "Figures and races": {
        "nbadapt.engines.figures": ("called as metric_values", "check as check_metric", "of_own as own_figures"),
        "nbadapt.engines.racing": (
            "RaceRound",
            "chance as paired_p_value",
            "cost as race_cost",
            "race",
            "schedule as race_schedule",
            "told_apart",
        ),
        "nbadapt.metrics": ("accuracy", "macro_f1", "wilson_interval"),
    },
    "Indexes and their stores": {
        "nbadapt.indexing.index": ("Hit", "Index"),
        "nbadapt.indexing.store": (
            "EVERYWHERE",
            "check_width as check_vector_width",
            "checked_vectors",
            "metadata_json",
            "parts as statement_batches",
            "question_words",
            "storable",
        ),
    },
}


def _home(module: str, listed: str) -> tuple[str, str]:
    """The public name of a listed one, and "module:attribute"."""
    attribute, _, public = listed.partition(" as ")
    return public or attribute, f"{module}:{attribute}"


_BY_SUBJECT = {
    subject: dict(_home(module, listed) for module, names in modules.items() for listed in names)
    for subject, modules in _SUBJECTS.items()
}
_HOMES = {name: home for names in _BY_SUBJECT.values() for name, home in names.items()}

__getattr__ = lazy.names(__name__, _HOMES)
