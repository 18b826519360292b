"""Feature services, models and stores in a few lines, for tests of what joins them. No store runs: rows are bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from featurecache.columns import Default
from featurecache.definitions import FeatureService, Project
from featurecache.joining.assembly import ModelInput
from featurecache.joining.resolve import Context, Filled, Functions, ServicePlan, Wanted
from featurecache.lookups.lookup_waiting import Lookup
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.rows.codec import RowCodec
from featurecache.rows.schema import RowSchema

NOW_US = 1_700_000_000_000_000
SECOND_US = 1_000_000

Store = Mapping[bytes, bytes | None]


def texts(*values: bytes) -> np.ndarray:
    """A BYTES tensor as a caller sends it: ``(rows, 1)``."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1)


def plan_of(
    service: FeatureService,
    *inputs: ModelInput,
    keys: Mapping[str, str] | None = None,
    functions: Functions | None = None,
    manifest: Manifest | None = None,
) -> ServicePlan:
    """The service, made ready for a model with these inputs."""
    made = manifest or compile_manifest([Project("p"), service])
    return ServicePlan(made, made.service(service.name), inputs, keys or {}, functions)


def row_of(
    schema: RowSchema,
    values: Mapping[str, Any],
    *,
    event_us: int = NOW_US - SECOND_US,
    write_us: int = NOW_US,
) -> bytes:
    """A packed row; None stands for null."""
    columns: dict[str, np.ndarray] = {}
    nulls: dict[str, np.ndarray] = {}
    for name, slot in schema.slots.items():
        value = values[name]
        column = np.zeros(slot.type.shape(1), slot.type.dtype)
        if slot.type.is_string:
            column[0] = value or b""
        elif value is not None:
            column[0] = value
        columns[name] = column
        nulls[name] = np.array([value is None])
    return RowCodec(schema).encode(columns, nulls, np.array([event_us]), write_us)[0]


def look_up(wanted: Wanted, store: Store, aged: Collection[bytes] = ()) -> Lookup:
    """What a lookup over ``store`` answers; ``aged`` are the keys whose copies are past their time."""
    flat = [key for view in wanted.views for key in view.keys]
    found = Lookup([store.get(key) for key in flat], settled=True)
    found.aged = {slot for slot, key in enumerate(flat) if key in aged}
    return found


def complete(
    plan: ServicePlan,
    inputs: Sequence[np.ndarray],
    store: Store,
    *,
    aged: Collection[bytes] = (),
    context: Context = (),
    now_us: int = NOW_US,
) -> Filled:
    """A whole request."""
    wanted = plan.wanted(inputs, context)
    return plan.fill(inputs, wanted, look_up(wanted, store, aged), now_us)


def plain(default: Default) -> Any:
    """A default as a value of a tensor."""
    return default.encode() if isinstance(default, str) else default
