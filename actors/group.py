"""The group, one prompt with its N samples: the record that samplers, verifiers, queue and learner exchange.

It travels as an Arrow record batch with one row, so that Ray's object store transfers buffers without pickling Python
lists, and the Parquet log of a run holds exactly what the learner saw. Readers reject unknown schema versions. Columns
that a known older version lacks are null, or say what that version did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from actors.sampling import Sampling
from verifiers.verdict import Status

SCHEMA_VERSION = 5
READABLE_VERSIONS = (3, 4, SCHEMA_VERSION)  # 3 has no texts, and was never restricted; 3 and 4 have no weights
_FORMER = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "weight": 1.0}  # what an older version did
_VERSION_KEY = b"bonrl.group.version"

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)

_TOKENS = pa.list_(pa.int32())

GROUP_SCHEMA = pa.schema(
    [
        # which prompt this is, and when it was admitted
        pa.field("sequence", pa.int64()),  # position in the run's prompt stream: unique in the run
        pa.field("epoch", pa.int32()),
        pa.field("prompt_id", pa.string()),
        pa.field("level", pa.string()),
        pa.field("prompt_tokens", _TOKENS),
        pa.field("demonstration_tokens", _TOKENS),  # an expert's response in imitation runs; else null
        pa.field("admitted_version", pa.int32()),  # weights the samplers held at admission
        pa.field("weight", pa.float64()),  # importance weight of the prompt in the step's gradient; since version 5
        # how it was sampled
        pa.field("sampler", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("temperature", pa.float32()),
        pa.field("top_p", pa.float32()),  # these restrict the distribution, in evaluations only; since version 4
        pa.field("top_k", pa.int32()),
        pa.field("min_p", pa.float32()),
        pa.field("sample_seconds", pa.float32()),
        # one element per sample
        pa.field("response_tokens", pa.list_(_TOKENS)),
        pa.field("behaviour_logprobs", pa.list_(pa.list_(pa.float32()))),
        pa.field("token_versions", pa.list_(_TOKENS)),  # of the weights that sampled each token
        pa.field("finish_reason", pa.list_(pa.string())),
        # filled by the verifier; null before
        pa.field("reward", pa.list_(pa.float64())),  # R: the objective's reward
        pa.field("score", pa.list_(pa.float64())),  # r: the deployed verifier's ranking score
        pa.field("verdict", pa.list_(pa.string())),
        pa.field("answer", pa.list_(pa.string())),
        pa.field("detail", pa.list_(pa.string())),  # reason, for humans
        pa.field("verify_seconds", pa.list_(pa.float32())),
        pa.field("demonstration_score", pa.float64()),  # r of the expert's response
        # for readers of the log, filled by the verifier; since version 4
        pa.field("prompt_text", pa.string()),  # the problem
        pa.field("reference", pa.string()),  # the verifier's data for the problem as JSON; null if long
        pa.field("response_text", pa.list_(pa.string())),  # as decoded for grading
        pa.field("part_names", pa.list_(pa.string())),  # of the reward's named parts; null if it has none
        pa.field("parts", pa.list_(pa.list_(pa.float64()))),  # per sample: their values, before weights; NaN: none
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)

_GRADES = ("reward", "score", "verdict", "answer", "detail", "verify_seconds", "response_text", "parts")


class GroupError(ValueError):
    """A group violates the schema: ragged samples, another schema version, grades of the wrong size."""


@dataclass(frozen=True)
class SampleRequest:
    """The input of a sampler for one group: prompt, sampling parameters, and position in the run."""

    sequence: int
    epoch: int
    prompt_id: str
    level: str
    prompt_tokens: np.ndarray  # int32 [P]
    admitted_version: int
    n: int
    sampling: Sampling
    max_tokens: int
    seed: int
    demonstration_tokens: np.ndarray | None = None  # int32 [D]
    weight: float = 1.0

    @property
    def max_generated_tokens(self) -> int:
        """Upper bound of the generated tokens, used for load balancing."""
        return self.n * self.max_tokens


@dataclass(frozen=True)
class Group:
    """One prompt and its N samples (see :data:`GROUP_SCHEMA` for units and meaning of every field)."""

    sequence: int
    epoch: int
    prompt_id: str
    level: str
    prompt_tokens: np.ndarray  # int32 [P]
    admitted_version: int
    sampler: str
    seed: int
    temperature: float
    sample_seconds: float
    response_tokens: Sequence[np.ndarray]  # N x int32 [R_i]
    behaviour_logprobs: Sequence[np.ndarray]  # N x float32 [R_i]
    token_versions: Sequence[np.ndarray]  # N x int32 [R_i]
    finish_reason: Sequence[str]
    weight: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    reward: np.ndarray | None = None  # float64 [N]
    score: np.ndarray | None = None  # float64 [N]
    verdict: Sequence[str] | None = None
    answer: Sequence[str | None] | None = None
    detail: Sequence[str] | None = field(default=None, repr=False)
    verify_seconds: np.ndarray | None = field(default=None, repr=False)  # float32 [N]
    part_names: Sequence[str] | None = None  # K names
    parts: Sequence[np.ndarray] | None = field(default=None, repr=False)  # N x float64 [K]
    demonstration_tokens: np.ndarray | None = None  # int32 [D]
    demonstration_score: float | None = None
    prompt_text: str | None = field(default=None, repr=False)
    reference: str | None = field(default=None, repr=False)
    response_text: Sequence[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(self.response_tokens)
        for name in ("behaviour_logprobs", "token_versions", "finish_reason", *_GRADES):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise GroupError(f"group {self.sequence}: {name} has {len(value)} entries for {n} samples")
        for i, tokens in enumerate(self.response_tokens):
            logprobs, versions = len(self.behaviour_logprobs[i]), len(self.token_versions[i])
            if not len(tokens) == logprobs == versions:
                raise GroupError(
                    f"group {self.sequence}, sample {i}: {len(tokens)} tokens but {logprobs} log-probabilities and "
                    f"{versions} weight versions"
                )

    @classmethod
    def sampled(cls, request: SampleRequest, **samples: Any) -> Group:
        """The ungraded group of `request`; `samples` are the fields that sampling adds."""
        names = {f.name for f in fields(cls)} & {f.name for f in fields(request)}
        return cls(**{name: getattr(request, name) for name in names}, **asdict(request.sampling), **samples)

    @property
    def n(self) -> int:
        """Number of samples in the group."""
        return len(self.response_tokens)

    @property
    def sampling(self) -> Sampling:
        """How the tokens were drawn."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)

    @property
    def oldest_version(self) -> int:
        """Oldest weight version that sampled a token of the group; the admitted version if there are no samples."""
        return min((int(v.min()) for v in self.token_versions if len(v)), default=self.admitted_version)

    @property
    def newest_version(self) -> int:
        """Newest weight version that sampled a token of the group."""
        return max((int(v.max()) for v in self.token_versions if len(v)), default=self.admitted_version)

    @property
    def rewards(self) -> np.ndarray:
        """Rewards float64 [N] of a graded group; raises GroupError before grading."""
        if self.reward is None:
            raise GroupError(f"group {self.sequence} has not been graded")
        return self.reward

    @property
    def usable(self) -> bool:
        """Whether the verifier reached a verdict on every sample; other groups are skipped, never trained on."""
        unscored = self.demonstration_tokens is not None and self.demonstration_score is None
        return self.n > 0 and not unscored and Status.VERIFIER_ERROR not in self.verdicts

    @property
    def fault(self) -> str:
        """Why the group is not usable: its prompt, and the verifier's reason for one of its samples."""
        if not self.n:
            return f"prompt {self.prompt_id!r} is quarantined"
        details = [d for v, d in zip(self.verdicts, self.detail or [], strict=False) if v == Status.VERIFIER_ERROR]
        return f"prompt {self.prompt_id!r}: {details[0] if details else 'its demonstration could not be judged'}"

    @property
    def verdicts(self) -> Sequence[str]:
        """The N verdicts of a graded group; raises GroupError before grading."""
        if self.verdict is None:
            raise GroupError(f"group {self.sequence} has not been graded")
        return self.verdict

    def with_grades(
        self,
        reward: np.ndarray,
        score: np.ndarray,
        verdict: Sequence[str],
        answer: Sequence[str | None],
        verify_seconds: np.ndarray,
        detail: Sequence[str] | None = None,
        demonstration_score: float | None = None,
        parts: Sequence[Mapping[str, float]] = (),
        **texts: Any,
    ) -> Group:
        """The same group with the verifier's results per sample, and the score of its demonstration if it has one.

        `parts`: the named parts of each reward. `texts`: the fields prompt_text, reference and response_text.

        If the verifier itself failed, the verdict is ``verifier_error`` and reward and score are NaN.
        """
        names = list(dict.fromkeys(name for one in parts for name in one)) or None
        return replace(
            self,
            reward=np.asarray(reward, np.float64),
            score=np.asarray(score, np.float64),
            verdict=list(verdict),
            answer=list(answer),
            detail=[""] * len(verdict) if detail is None else list(detail),
            verify_seconds=np.asarray(verify_seconds, np.float32),
            demonstration_score=demonstration_score,
            part_names=names,
            parts=[np.array([one.get(name, np.nan) for name in names]) for one in parts] if names else None,
            **texts,
        )

    def to_record_batch(self) -> pa.RecordBatch:
        """One-row record batch in :data:`GROUP_SCHEMA`."""
        columns = [_column(getattr(self, f.name), f.type) for f in GROUP_SCHEMA]
        return pa.RecordBatch.from_arrays(columns, schema=GROUP_SCHEMA)

    @classmethod
    def from_record_batch(cls, batch: pa.RecordBatch) -> Group:
        """Read a one-row batch.

        Raises:
            GroupError: the batch has another schema version or not exactly one row.
        """
        batch = upgraded(batch)
        if batch.num_rows != 1:
            raise GroupError(f"a group is one row, but this record batch has {batch.num_rows}")
        return cls(**{f.name: _value(batch.column(f.name), f.type) for f in GROUP_SCHEMA})


assert {f.name for f in fields(Group)} == set(GROUP_SCHEMA.names), "Group and GROUP_SCHEMA must name the same fields"


def check_schema(schema: pa.Schema) -> None:
    """Raise :class:`GroupError` unless `schema` is a version of the group schema that can be read."""
    written = (schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if written not in map(str, READABLE_VERSIONS):
        raise GroupError(
            f"group schema version {written} cannot be read by version {SCHEMA_VERSION}: "
            "use the bonrl release that wrote these files"
        )


def upgraded(groups: Rows) -> Rows:
    """A record batch or table of groups in :data:`GROUP_SCHEMA`; an older version gets the columns that it lacks.

    Raises:
        GroupError: the schema version is unknown.
    """
    if groups.schema.equals(GROUP_SCHEMA, check_metadata=True):
        return groups
    check_schema(groups.schema)
    known = set(groups.schema.names)
    columns = [
        groups.column(f.name).cast(f.type) if f.name in known else _absent(f, groups.num_rows) for f in GROUP_SCHEMA
    ]
    return type(groups).from_arrays(columns, schema=GROUP_SCHEMA)


def _absent(column: pa.Field, rows: int) -> pa.Array:
    """A column that an older version lacks."""
    return pa.repeat(pa.scalar(_FORMER.get(column.name), column.type), rows)


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    """One Arrow array of length 1; nested lists are built from flat buffers, not from Python objects."""
    if value is None:
        return pa.nulls(1, kind)
    if not pa.types.is_list(kind):
        return pa.array([value], kind)
    return pa.ListArray.from_arrays(pa.array([0, len(value)], pa.int32()), _items(value, kind.value_type))


def _items(value: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        offsets = np.zeros(len(value) + 1, np.int32)
        np.cumsum([len(v) for v in value], out=offsets[1:])
        flat = np.concatenate(value) if len(value) else np.empty(0)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, kind.value_type))
    return pa.array(value, kind)


def _value(column: pa.Array, kind: pa.DataType) -> Any:
    scalar = column[0]
    if not scalar.is_valid:
        return None
    if not pa.types.is_list(kind):
        return scalar.as_py()
    items = scalar.values
    if pa.types.is_list(kind.value_type):
        flat, offsets = items.flatten().to_numpy(zero_copy_only=False), items.offsets.to_numpy()
        return [flat[begin:end] for begin, end in pairwise((offsets - offsets[0]).tolist())]
    if pa.types.is_string(kind.value_type):
        return items.to_pylist()
    return items.to_numpy(zero_copy_only=False)


def quarantined_group(request: SampleRequest) -> Group:
    """The group of a prompt that could not be sampled or graded: graded, without samples, never usable."""
    return Group.sampled(
        request,
        sampler="none (quarantined)",
        sample_seconds=0.0,
        response_tokens=[],
        behaviour_logprobs=[],
        token_versions=[],
        finish_reason=[],
    ).with_grades(reward=np.empty(0), score=np.empty(0), verdict=[], answer=[], verify_seconds=np.empty(0), detail=[])
