"""Statistics on the wire: Triton's names, as a dictionary that is also the protobuf message."""

from __future__ import annotations

from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.grpc import service_pb2

from gateway.core.statistics import DurationSum, RequestDurations, VersionStatistics
from gateway.edge.statistics import model_statistics
from protos import inference

STATISTICS = VersionStatistics(
    name="m",
    version="3",
    last_inference_ms=1_700_000_000_123,
    inference_count=70,
    execution_count=3,
    requests=RequestDurations(
        success=DurationSum(20, 9_000),
        fail=DurationSum(2, 0),
        queue=DurationSum(20, 1_000),
        compute_input=DurationSum(20, 2_000),
        compute_infer=DurationSum(20, 5_000),
        compute_output=DurationSum(20, 900),
    ),
    batches={64: DurationSum(1, 40), 3: DurationSum(2, 11)},
)


def test_the_words_are_tritons() -> None:
    [found] = model_statistics([STATISTICS])["model_stats"]
    assert {key: value for key, value in found.items() if "_stats" not in key} == {
        "name": "m",
        "version": "3",
        "last_inference": 1_700_000_000_123,
        "inference_count": 70,
        "execution_count": 3,
        "memory_usage": [],
    }
    assert found["inference_stats"] == {
        "success": {"count": 20, "ns": 9_000},
        "fail": {"count": 2, "ns": 0},
        "queue": {"count": 20, "ns": 1_000},
        "compute_input": {"count": 20, "ns": 2_000},
        "compute_infer": {"count": 20, "ns": 5_000},
        "compute_output": {"count": 20, "ns": 900},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    assert found["response_stats"] == {}
    assert [one["batch_size"] for one in found["batch_stats"]] == [3, 64]
    assert found["batch_stats"][0]["compute_infer"] == {"count": 2, "ns": 11}


def test_the_message_says_the_same_and_tritons_client_reads_it() -> None:
    plain = model_statistics([STATISTICS])
    ours = ParseDict(plain, inference.ModelStatisticsResponse())
    theirs = service_pb2.ModelStatisticsResponse.FromString(ours.SerializeToString())
    assert len(theirs.model_stats) == 1
    assert theirs.model_stats[0].inference_stats.compute_infer.ns == 5_000
    assert theirs.model_stats[0].batch_stats[1].batch_size == 64
    read = MessageToDict(theirs, preserving_proto_field_name=True)
    assert ParseDict(read, inference.ModelStatisticsResponse()) == ours


def test_no_model_no_statistics() -> None:
    assert model_statistics([]) == {"model_stats": []}
