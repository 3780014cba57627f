from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CODE_UNSPECIFIED: _ClassVar[FailureCode]
    FAILURE_CODE_BAD_IMAGE: _ClassVar[FailureCode]
    FAILURE_CODE_BAD_TEXT: _ClassVar[FailureCode]
    FAILURE_CODE_MISSING_FIELD: _ClassVar[FailureCode]
    FAILURE_CODE_NON_FINITE: _ClassVar[FailureCode]
    FAILURE_CODE_JUDGE_UNPARSABLE: _ClassVar[FailureCode]
    FAILURE_CODE_INTERNAL: _ClassVar[FailureCode]
    FAILURE_CODE_BAD_REFERENCE: _ClassVar[FailureCode]

class Part(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PART_UNSPECIFIED: _ClassVar[Part]
    PART_PICTURE: _ClassVar[Part]
    PART_ANSWER: _ClassVar[Part]
FAILURE_CODE_UNSPECIFIED: FailureCode
FAILURE_CODE_BAD_IMAGE: FailureCode
FAILURE_CODE_BAD_TEXT: FailureCode
FAILURE_CODE_MISSING_FIELD: FailureCode
FAILURE_CODE_NON_FINITE: FailureCode
FAILURE_CODE_JUDGE_UNPARSABLE: FailureCode
FAILURE_CODE_INTERNAL: FailureCode
FAILURE_CODE_BAD_REFERENCE: FailureCode
PART_UNSPECIFIED: Part
PART_PICTURE: Part
PART_ANSWER: Part

class RawImage(_message.Message):
    __slots__ = ("pixels", "height", "width")
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    pixels: bytes
    height: int
    width: int
    def __init__(self, pixels: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("encoded", "raw", "sha256")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: RawImage
    sha256: str
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., sha256: _Optional[str] = ...) -> None: ...

class Concept(_message.Message):
    __slots__ = ("name", "class_noun", "references", "info", "extra_info", "conversation_type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASS_NOUN_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    EXTRA_INFO_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    class_noun: str
    references: _containers.RepeatedCompositeFieldContainer[Image]
    info: str
    extra_info: _containers.RepeatedScalarFieldContainer[str]
    conversation_type: str
    def __init__(self, name: _Optional[str] = ..., class_noun: _Optional[str] = ..., references: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., info: _Optional[str] = ..., extra_info: _Optional[_Iterable[str]] = ..., conversation_type: _Optional[str] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("id", "group", "image", "prompt", "concept", "question", "answer", "reference_answers", "choices", "target", "metadata", "nouns")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NOUNS_FIELD_NUMBER: _ClassVar[int]
    id: str
    group: str
    image: Image
    prompt: str
    concept: Concept
    question: str
    answer: str
    reference_answers: _containers.RepeatedScalarFieldContainer[str]
    choices: _containers.RepeatedScalarFieldContainer[str]
    target: int
    metadata: _containers.ScalarMap[str, str]
    nouns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., group: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., prompt: _Optional[str] = ..., concept: _Optional[_Union[Concept, _Mapping]] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., reference_answers: _Optional[_Iterable[str]] = ..., choices: _Optional[_Iterable[str]] = ..., target: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., nouns: _Optional[_Iterable[str]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("samples", "variant", "release", "request_id")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    variant: str
    release: str
    request_id: str
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., variant: _Optional[str] = ..., release: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Component(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("value", "components", "reason")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    value: float
    components: _containers.RepeatedCompositeFieldContainer[Component]
    reason: str
    def __init__(self, value: _Optional[float] = ..., components: _Optional[_Iterable[_Union[Component, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class NotApplicable(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class MissingReferences(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "retryable", "field")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    code: FailureCode
    message: str
    retryable: bool
    field: str
    def __init__(self, code: _Optional[_Union[FailureCode, str]] = ..., message: _Optional[str] = ..., retryable: bool = ..., field: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("id", "score", "not_applicable", "missing_references", "failure")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    NOT_APPLICABLE_FIELD_NUMBER: _ClassVar[int]
    MISSING_REFERENCES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: Score
    not_applicable: NotApplicable
    missing_references: MissingReferences
    failure: Failure
    def __init__(self, id: _Optional[str] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., not_applicable: _Optional[_Union[NotApplicable, _Mapping]] = ..., missing_references: _Optional[_Union[MissingReferences, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("admission_ns", "prepare_ns", "triton_ns", "total_ns")
    ADMISSION_NS_FIELD_NUMBER: _ClassVar[int]
    PREPARE_NS_FIELD_NUMBER: _ClassVar[int]
    TRITON_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    admission_ns: int
    prepare_ns: int
    triton_ns: int
    total_ns: int
    def __init__(self, admission_ns: _Optional[int] = ..., prepare_ns: _Optional[int] = ..., triton_ns: _Optional[int] = ..., total_ns: _Optional[int] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("outcomes", "reward", "variant", "release", "timings", "request_id")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    reward: str
    variant: str
    release: str
    timings: Timings
    request_id: str
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ..., reward: _Optional[str] = ..., variant: _Optional[str] = ..., release: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_items", "max_references", "max_request_bytes", "max_image_bytes", "max_pixels", "max_text_bytes", "max_inflight_items", "max_deadline_ms", "max_texts", "max_request_text_bytes", "max_request_fields", "max_request_tokens")
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_REFERENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_INFLIGHT_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXTS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_FIELDS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_items: int
    max_references: int
    max_request_bytes: int
    max_image_bytes: int
    max_pixels: int
    max_text_bytes: int
    max_inflight_items: int
    max_deadline_ms: int
    max_texts: int
    max_request_text_bytes: int
    max_request_fields: int
    max_request_tokens: int
    def __init__(self, max_items: _Optional[int] = ..., max_references: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., max_inflight_items: _Optional[int] = ..., max_deadline_ms: _Optional[int] = ..., max_texts: _Optional[int] = ..., max_request_text_bytes: _Optional[int] = ..., max_request_fields: _Optional[int] = ..., max_request_tokens: _Optional[int] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("name", "version", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    sha256: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("digest", "variant", "formula_version", "graphs")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    FORMULA_VERSION_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    variant: str
    formula_version: str
    graphs: _containers.RepeatedCompositeFieldContainer[Graph]
    def __init__(self, digest: _Optional[str] = ..., variant: _Optional[str] = ..., formula_version: _Optional[str] = ..., graphs: _Optional[_Iterable[_Union[Graph, _Mapping]]] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("name", "summary", "source", "required_fields", "raw_min", "raw_max", "affine_scale", "affine_shift", "preferred_image_size", "groupwise", "card")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    RAW_MIN_FIELD_NUMBER: _ClassVar[int]
    RAW_MAX_FIELD_NUMBER: _ClassVar[int]
    AFFINE_SCALE_FIELD_NUMBER: _ClassVar[int]
    AFFINE_SHIFT_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    GROUPWISE_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    source: str
    required_fields: _containers.RepeatedScalarFieldContainer[str]
    raw_min: float
    raw_max: float
    affine_scale: float
    affine_shift: float
    preferred_image_size: int
    groupwise: bool
    card: str
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., source: _Optional[str] = ..., required_fields: _Optional[_Iterable[str]] = ..., raw_min: _Optional[float] = ..., raw_max: _Optional[float] = ..., affine_scale: _Optional[float] = ..., affine_shift: _Optional[float] = ..., preferred_image_size: _Optional[int] = ..., groupwise: bool = ..., card: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("reward", "variants", "default_variant", "releases", "default_releases", "limits", "server_version", "judges")
    class DefaultReleasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REWARD_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VARIANT_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RELEASES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    JUDGES_FIELD_NUMBER: _ClassVar[int]
    reward: str
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    default_variant: str
    releases: _containers.RepeatedCompositeFieldContainer[Release]
    default_releases: _containers.ScalarMap[str, str]
    limits: Limits
    server_version: str
    judges: Part
    def __init__(self, reward: _Optional[str] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., default_variant: _Optional[str] = ..., releases: _Optional[_Iterable[_Union[Release, _Mapping]]] = ..., default_releases: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., judges: _Optional[_Union[Part, str]] = ...) -> None: ...
