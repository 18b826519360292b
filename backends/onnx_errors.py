"""ONNX Runtime's error messages, cut down to the sentence a person can use.

Decides only wording. It must never leak source paths or C++ signatures of the runtime into replies
and indexes.
"""

from __future__ import annotations

import re

LONGEST_MESSAGE = 600

_NODE = re.compile(
    r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: "
)

_NOISE = (
    re.compile(r"Load model from .*? failed: ?"),
    # A status: "[ONNXRuntimeError] : 1 : FAIL : "
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : "),
    # A place in the source, "core/graph/model.cc:256 ", then a signature (with one level of brackets
    # in its arguments), "onnxruntime::Model::Model(onnx::ModelProto&&) ", or a bare name.
    re.compile(
        r"\S+\.(?:cc|h|cpp|cu|hpp):\d+ "
        r"(?:[\w:<>,*&~ ]+?::[\w~<>=]+\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[[^\]]*\])? |\w+ )?"
    ),
    re.compile(r"Please fix either the inputs/outputs or the model\."),
    re.compile(r"\x1b\[[0-9;]*m"),
)


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line of bounded length, without the runtime's internals."""
    # Cut twice: patterns take their time with endless words, and noise must not eat up the limit.
    message = str(error)[: 8 * LONGEST_MESSAGE]
    message = _NODE.sub(r"\1 node '\2': ", message).replace(" node '': ", " node: ")
    for noise in _NOISE:
        message = noise.sub("", message)
    message = " ".join(message.split()) or type(error).__name__
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"
