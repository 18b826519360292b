"""``model.toml`` turned into frozen values: every key, its default and its limits.

Decides what an operator may write, how a mistake is explained, and that a key written here wins over
what another file says in the same words. It must never look at a model, at the machine or at another
file; ``docs/model-toml.md`` documents the same keys, and a test compares the two.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

import msgspec
from msgspec import Meta

from backends.errors import ModelLoadError

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Milliseconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400_000)]
QueueDelayUs: TypeAlias = Annotated[int, Meta(ge=0, le=60_000_000)]
InlineLimitUs: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
ThreadCount: TypeAlias = Annotated[int, Meta(ge=1, le=1024)]
DeviceNumber: TypeAlias = Annotated[int, Meta(ge=0, le=1023)]
RepeatCount: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
LookupBudgetMs: TypeAlias = Annotated[float, Meta(ge=0.1, le=60_000)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
PriorityLevel: TypeAlias = Annotated[int, Meta(ge=1, le=16)]

Sections: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Values by section and key, as TOML would give them."""

_KEY_SOURCE = re.compile(r"(input|parameter|header):\S+")
_NO_CHOICE = "invalid enum value "

# Keys that have a meaning only together: whoever writes one of the first takes over the others.
_TOGETHER = (
    ("versions", {"policy", "latest", "specific"}, {"policy", "latest", "specific"}),
    ("priority", {"default", "levels"}, {"default", "levels"}),
    ("onnxruntime", {"device", "device_id"}, {"device", "device_id"}),
    ("batching", {"max_batch_size"}, {"mode"}),
)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: unknown keys are mistakes, never ignored."""


class BatchingSettings(_Section, frozen=True):
    """``[batching]``: how rows of different requests share one run of the model."""

    mode: Literal["auto", "always", "never"] = "auto"
    """``auto`` batches when the rule and the load-time probe agree; the other two overrule both."""
    max_batch_size: Count = 64
    """Largest batch, in rows."""
    max_queue_delay_us: QueueDelayUs = 0
    """How long an idle model may wait for more rows. 0: it never waits."""
    max_queue_requests: Count = 1024
    """Requests that may wait; the next one is refused."""
    max_queue_rows: Count = 65536
    """Rows that may wait, over all requests."""

    def __post_init__(self) -> None:
        if self.max_queue_rows < self.max_batch_size:
            raise ValueError("`max_queue_rows` must not be smaller than `max_batch_size`")


class DeadlineSettings(_Section, frozen=True):
    """``[deadline]``: how long a caller waits who does not say how long."""

    default_timeout_ms: Milliseconds | None = None
    """Deadline for callers that give none. Absent: such calls have no deadline."""


class PrioritySettings(_Section, frozen=True):
    """``[priority]``: which requests of this model go first. 1 is the most urgent."""

    default: PriorityLevel = 2
    """Priority of a request that names none."""
    levels: PriorityLevel = 3
    """How many levels there are; a request may name 1 up to this."""

    def __post_init__(self) -> None:
        if self.default > self.levels:
            raise ValueError(f"`default` must be between 1 and `levels` ({self.levels})")


class VersionSettings(_Section, frozen=True):
    """``[versions]``: which version folders are served."""

    policy: Literal["latest", "all", "specific"] = "latest"
    """``latest`` serves the highest numbers, ``all`` every version, ``specific`` those in
    `specific`.
    """
    latest: Count = 1
    """How many of the highest numbers the policy ``latest`` serves."""
    specific: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    """The versions that the policy ``specific`` serves."""

    def __post_init__(self) -> None:
        if self.policy == "specific" and not self.specific:
            raise ValueError('policy "specific" needs `specific = [...]` with at least one version')
        if self.policy != "specific" and self.specific:
            raise ValueError(f'`specific` has no effect with policy "{self.policy}"')
        if len(set(self.specific)) != len(self.specific):
            raise ValueError("`specific` names a version twice")


class ExecutionSettings(_Section, frozen=True):
    """``[execution]``: on which thread the model runs, and how often at a time."""

    inline: Literal["auto", "always", "never"] = "auto"
    """``auto`` runs a batch on the serving thread while its measured time stays under
    `inline_limit_us`.
    """
    inline_limit_us: InlineLimitUs = 200
    """The bound for ``inline = "auto"``, in microseconds a batch."""
    instances: ThreadCount = 1
    """How many batches of this model may run at the same time."""


class OnnxRuntimeSettings(_Section, frozen=True):
    """``[onnxruntime]``: options of ONNX Runtime for this model."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs. Never replaced silently: without CUDA a ``cuda`` model does not load.
    """
    device_id: DeviceNumber = 0
    """Which GPU, with ``device = "cuda"``."""
    intra_op_threads: ThreadCount | None = None
    """Threads inside one operator. Absent: `repository.intra_op_threads`, or where that is 0 the
    processor cores divided by gateway workers, at least 1.
    """
    inter_op_threads: ThreadCount = 1
    """Operators that may run side by side, with ``execution_mode = "parallel"``."""
    graph_optimization: Literal["off", "basic", "extended", "all"] = "all"
    """How far the graph is rewritten at load time."""
    execution_mode: Literal["sequential", "parallel"] = "sequential"
    """Whether independent branches of the graph may run side by side."""
    spinning: bool = False
    """Whether idle threads burn CPU while they wait for work: a little faster alone, costly with
    neighbours.
    """
    memory_arena: bool = True
    """Keep memory of past runs for the next ones."""
    memory_pattern: bool = True
    """Plan one block of memory for runs of a known shape."""
    session_config: dict[str, str] = {}
    """Any other session option of ONNX Runtime, as its own key and value, both quoted."""

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.device_id:
            raise ValueError('`device_id` has no effect with `device = "cpu"`')


class WarmupSettings(_Section, frozen=True):
    """``[warmup]``: runs on generated data before the model takes requests."""

    enabled: bool = True
    """Whether each batch size is run before the model is ready."""
    runs: RepeatCount = 2
    """Runs of each batch size; the fastest is remembered."""


class FeaturesSettings(_Section, frozen=True):
    """``[features]``: which feature service completes the inputs of the model."""

    service: str = ""
    """The feature service of the manifest; empty: callers send all inputs themselves."""
    lookup_budget_ms: LookupBudgetMs = 5.0
    """How long a request may wait for the store, within its own deadline."""
    max_defaulted_fraction: Fraction = 1.0
    """The share of looked-up values of one request that may be defaults; above it the request
    fails.
    """
    keys: dict[str, str] = {}
    """Where a join key comes from: ``input:NAME``, ``parameter:NAME`` or ``header:NAME``. A key that
    is not named here is an input tensor of its own name.
    """

    def __post_init__(self) -> None:
        if self.keys and not self.service:
            raise ValueError("`keys` has no effect without `service`")
        for key, source in self.keys.items():
            if not _KEY_SOURCE.fullmatch(source):
                raise ValueError(
                    f"`keys`: {key} comes from {source!r}; write input:NAME, parameter:NAME or header:NAME"
                )


class ModelSettings(_Section, frozen=True):
    """The whole of a ``model.toml``; what it does not write has its default."""

    batching: BatchingSettings = BatchingSettings()
    deadline: DeadlineSettings = DeadlineSettings()
    priority: PrioritySettings = PrioritySettings()
    versions: VersionSettings = VersionSettings()
    execution: ExecutionSettings = ExecutionSettings()
    onnxruntime: OnnxRuntimeSettings = OnnxRuntimeSettings()
    warmup: WarmupSettings = WarmupSettings()
    features: FeaturesSettings = FeaturesSettings()


def read_version_features(path: Path) -> FeaturesSettings | None:
    """The ``[features]`` of one version's ``version.toml``; None where there is none.

    It takes the place of the model's as a whole. Raises ``ModelLoadError`` as
    ``read_model_settings`` does, and for any other section: that belongs to the model.
    """
    text = _text_of(path)
    settings = parse_model_settings(text, source=str(path))
    sections = set(tomllib.loads(text))
    if sections - {"features"}:
        others = ", ".join(f"[{one}]" for one in sorted(sections - {"features"}))
        raise ModelLoadError(f"{path}: {others} counts for all versions: write it in model.toml")
    return settings.features if sections else None


def read_model_settings(path: Path, below: Sections | None = None) -> ModelSettings:
    """The settings in the file at ``path``; what it does not write comes from ``below``.

    A missing file writes nothing. Raises ``ModelLoadError`` naming the file, the key and what would
    be right.
    """
    return parse_model_settings(_text_of(path), source=str(path), below=below)


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error


def parse_model_settings(text: str, *, source: str, below: Sections | None = None) -> ModelSettings:
    """The settings that ``text`` writes; ``source`` names it in the ``ModelLoadError``.

    ``below`` holds values from elsewhere, valid by themselves, for keys that ``text`` does not
    write.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelLoadError(f"{source}: not valid TOML: {error}") from error
    unknown = _first_unknown_key(document)
    if unknown is not None:
        raise ModelLoadError(f"{source}: {unknown}")
    try:
        return msgspec.convert(_laid_over(document, below or {}), ModelSettings)
    except msgspec.ValidationError as error:
        told = "" if below is None or not _is_valid(document) else " (with what config.pbtxt says)"
        raise ModelLoadError(f"{source}: {_explain(str(error))}{told}") from error


def _is_valid(document: dict[str, Any]) -> bool:
    try:
        msgspec.convert(document, ModelSettings)
    except msgspec.ValidationError:
        return False
    return True


def _laid_over(document: dict[str, Any], below: Sections) -> dict[str, Any]:
    merged = dict(document)
    for section, values in below.items():
        written = document.get(section, {})
        if isinstance(written, dict):  # what is not even a table is explained later
            taken = {
                key
                for where, owners, owned in _TOGETHER
                if where == section and not owners.isdisjoint(written)
                for key in owned
            }
            kept = {key: value for key, value in values.items() if key not in taken}
            merged[section] = kept | written
    return merged


def _first_unknown_key(document: dict[str, Any]) -> str | None:
    """A sentence; msgspec would refuse the key as well, but does not know which key was meant."""
    known = _known_keys()
    for section, values in document.items():
        if section not in known:
            return f"unknown section [{section}]{_suggestion(section, list(known))}"
        for key in values if isinstance(values, dict) else ():
            if key not in known[section]:
                # Either the right key in the wrong section, or a slip of the pen in this one.
                elsewhere = [f"{other}.{key}" for other in known if key in known[other]]
                nearby = elsewhere or [f"{section}.{name}" for name in known[section]]
                wrong = f"{section}.{key}"
                return f"unknown key `{wrong}`{_suggestion(wrong, nearby)}"
    return None


def _known_keys() -> dict[str, list[str]]:
    defaults = ModelSettings()
    return {
        section: list(getattr(defaults, section).__struct_fields__)
        for section in defaults.__struct_fields__
    }


def _suggestion(wrong: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(wrong, known, n=1, cutoff=0.0)
    return f"; the nearest known one is `{nearest[0]}`" if nearest else ""


def _choices(key: str) -> str:
    """What a key with a fixed set of words may be: ``"cpu" or "cuda"``."""
    section, _, name = key.partition(".")
    allowed = get_args(get_type_hints(type(getattr(ModelSettings(), section)))[name])
    *others, last = (f'"{word}"' for word in allowed)
    return f"{', '.join(others)} or {last}"


def _explain(problem: str) -> str:
    """The sentence of msgspec in TOML's words, the key first: ``batching.mode: expected …``."""
    what, _, place = problem.partition(" - at `$.")
    key = re.sub(r"\[\.\.\.\]", "", place.rstrip("`"))
    for theirs, ours in (("`object`", "a table"), ("`array`", "a list"), ("`null`", "nothing")):
        what = what.replace(theirs, ours)
    what = what[:1].lower() + what[1:]
    if what.startswith(_NO_CHOICE):
        what = f"must be {_choices(key)}, not {what.removeprefix(_NO_CHOICE)}"
    if key.startswith("features.keys") and "a table" in what:
        what += '; write keys = { origin = "input:origin" }'
    if key.startswith("onnxruntime.session_config") and "a table" in what:
        what += '; quote keys that contain dots: "session.some_option" = "1"'
    return f"`{key}`: {what}" if key else what
