"""What is done with scores: the thin SDK, Sync-GRPO with Dynamic Group Scaling, policies and evaluation.

This namespace is the SDK, for anybody who has pictures or answers to score. It imports neither torch nor transformers,
onnxruntime or tritonclient; the trainer's modules next to it do, and are imported by name.

    async with RewardClient("localhost:9001") as client:
        batch = await client.score([Sample(image=picture("cat.png"), prompt="a cat")])
"""

from sync_r1.reward_models.types import (
    Concept,
    Failure,
    FailureCode,
    NotApplicable,
    Outcome,
    Picture,
    Sample,
    Score,
)
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import ServiceDescription, ServiceLimits, VariantDescription
from sync_r1.trainer_client.sdk.ensemble import Combination, EnsembleResult, RewardEnsemble, RewardResult
from sync_r1.trainer_client.sdk.errors import (
    BadArgument,
    ClientMisused,
    DeadlineExceeded,
    Overloaded,
    ReleaseNotFound,
    RequestRejected,
    RewardClientError,
    RewardFailed,
    ServiceBug,
    ServiceUnreachable,
    Unauthenticated,
)
from sync_r1.trainer_client.sdk.pictures import EncodedPicture, PictureSource, picture
from sync_r1.trainer_client.sdk.presets import PRESETS, Preset
from sync_r1.trainer_client.sdk.results import RequestTimings, ScoredBatch
from sync_r1.trainer_client.sdk.reward_use import AffineMap, FailurePolicy, RewardUse
from sync_r1.trainer_client.sdk.security import SecurityError, Tls, Token
from sync_r1.trainer_client.sdk.settings import (
    Backoff,
    Breaker,
    ClientSettings,
    Hedging,
    Limits,
    Replicas,
    RetryBudget,
    Timeout,
    settings_from_environment,
)
from sync_r1.trainer_client.sdk.stats import Attempt
from sync_r1.trainer_client.sdk.sync_client import SyncRewardClient, SyncRewardEnsemble

__all__ = [
    "PRESETS",
    "AffineMap",
    "Attempt",
    "Backoff",
    "BadArgument",
    "Breaker",
    "ClientMisused",
    "ClientSettings",
    "Combination",
    "Concept",
    "DeadlineExceeded",
    "EncodedPicture",
    "EnsembleResult",
    "Failure",
    "FailureCode",
    "FailurePolicy",
    "Hedging",
    "Limits",
    "NotApplicable",
    "Outcome",
    "Overloaded",
    "Picture",
    "PictureSource",
    "Preset",
    "ReleaseNotFound",
    "Replicas",
    "RequestRejected",
    "RequestTimings",
    "RetryBudget",
    "RewardClient",
    "RewardClientError",
    "RewardEnsemble",
    "RewardFailed",
    "RewardResult",
    "RewardUse",
    "Sample",
    "Score",
    "ScoredBatch",
    "SecurityError",
    "ServiceBug",
    "ServiceDescription",
    "ServiceLimits",
    "ServiceUnreachable",
    "SyncRewardClient",
    "SyncRewardEnsemble",
    "Timeout",
    "Tls",
    "Token",
    "Unauthenticated",
    "VariantDescription",
    "picture",
    "settings_from_environment",
]
