"""The client of the admin port's rollouts: what is asked, what the answers are, and what is sent again.

Decides the headers that make a change safe: the revision it is meant for, a key that makes a repeated send harmless,
and who asks. It must never print, never show the token, and never send a change twice under two keys: what is sent
again after a lost connection is the same request to the byte.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from headrace.health import connect
from rollout.evidence import Verdict
from rollout.plan import HistoryEntry, Plan, PlanError, decode_plan

ASK_TIMEOUT_S = 15.0
CHANGE_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class NoAnswerError(Exception):
    """Nobody answered, or something else than an admin port did; the message is for people.

    ``may_have_happened``: a change was sent whole, and nothing came back.
    """

    def __init__(self, message: str, *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


class RefusedError(Exception):
    """The port answered, and not with what was asked for. The message is its sentence."""

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        faults: tuple[str, ...] = (),
        current: Plan | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.faults = faults
        self.current = current
        """The plan as it is, where the port sent it along."""
        self.retry_after_s = retry_after_s


class Summary(msgspec.Struct, frozen=True):
    """One line of the list of all rollouts."""

    model: str
    state: str
    revision: int = 0
    champion: str = ""
    candidate: str = ""
    candidate_percent: float = 0.0
    step: int = -1
    """From 0; -1 before the first."""
    steps: int = 0
    """How many there are."""
    reason: str = ""
    updated_s: float = 0.0


class DecisionSeen(msgspec.Struct, frozen=True):
    """What the controller would do now, and why."""

    action: str
    reason: str
    event: str = ""


class ArmSeen(msgspec.Struct, frozen=True):
    """One version, as it is planned and as it was counted; counts are of the whole plan, None: it is not counted."""

    version: str
    arm: str = ""
    weight_percent: float = 0.0
    requests: int | None = None
    errors: int | None = None
    slow: int | None = None
    invalid: int | None = None
    defaulted: int | None = None
    share_percent: float | None = None
    """Of the requests in the current step; None before the first."""


class GatewaySeen(msgspec.Struct, frozen=True):
    """One process that serves, by its last heartbeat."""

    gateway: str
    age_s: float = 0.0
    revision: int = 0
    acting_s: float = 0.0
    warm: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class ShareSeen(msgspec.Struct, frozen=True):
    """A share of answers, and the same of the champion compared with itself."""

    value: float | None = None
    floor: float | None = None


class ScoresSeen(msgspec.Struct, frozen=True):
    """A version's score less the champion's."""

    pairs: int = 0
    mean: float = 0.0


class ShadowSeen(msgspec.Struct, frozen=True):
    """A version that sees copies, and what comparing its answers has shown."""

    version: str
    percent: float = 0.0
    answers: int = 0
    failed: int = 0
    differing: ShareSeen | None = None
    flipped: ShareSeen | None = None
    scores: ScoresSeen | None = None


class StatusSeen(msgspec.Struct, frozen=True):
    """One rollout as it stands."""

    plan: Plan
    decision: DecisionSeen
    samples: int = 0
    verdicts: tuple[Verdict, ...] = ()
    is_complete: bool = True
    breakage: str | None = None
    arms: tuple[ArmSeen, ...] = ()
    gateways: tuple[GatewaySeen, ...] = ()
    shadows: tuple[ShadowSeen, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    retry_after: str


class _Version(msgspec.Struct, frozen=True):
    name: str
    version: str
    state: str


class _Listed(msgspec.Struct, frozen=True):
    rollouts: tuple[Summary, ...]


class _History(msgspec.Struct, frozen=True):
    history: tuple[HistoryEntry, ...]


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""
    faults: tuple[str, ...] = ()
    current: msgspec.Raw = msgspec.Raw()


_ShapeT = TypeVar("_ShapeT")


class RolloutAdmin:
    """The rollouts behind the admin port at ``url``. Every method raises ``NoAnswerError`` and ``RefusedError``.

    ``author``: who asks, for ports that ask for no tokens. ``token``: empty, or what ``headrace token create`` printed.
    """

    def __init__(self, url: str, *, token: str = "", author: str = "") -> None:
        self.url = url
        self._headers = {"accept": "application/json", "connection": "close"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        elif author:
            self._headers["x-headrace-author"] = author
        self._has_token = bool(token)

    @property
    def shows_token(self) -> bool:
        """Whether the token crosses a network where it can be read."""
        parts = urlsplit(self.url)
        return self._has_token and parts.scheme == "http" and not _is_here(parts.hostname or "")

    def ready_versions(self, model: str) -> list[str]:
        """Versions of the model that answer now, in the repository's order."""
        index = self._read("POST", "/v2/repository/index", tuple[_Version, ...])
        return [one.version for one in index if one.name == model and one.state == "READY"]

    def listed(self) -> tuple[Summary, ...]:
        return self._read("GET", "/v2/rollouts", _Listed).rollouts

    def plan(self, model: str) -> Plan:
        """Refused with 404 when there is none."""
        return self._plan(self._ask("GET", _path(model)))

    def status(self, model: str) -> StatusSeen:
        return self._read("GET", _path(model, "status"), StatusSeen)

    def history(self, model: str) -> tuple[HistoryEntry, ...]:
        """The newest last."""
        return self._read("GET", _path(model, "history"), _History).history

    def propose(
        self,
        model: str,
        document: bytes,
        *,
        revision: int | None,
        reason: str,
        start: bool = False,
        dry_run: bool = False,
    ) -> Plan:
        """Make ``document`` the model's plan in the place of ``revision``; None: there must be none yet."""
        query = {"reason": reason}
        query |= {"start": "true"} if start else {}
        query |= {"dry_run": "true"} if dry_run else {}
        condition = {"if-none-match": "*"} if revision is None else _if_match(revision)
        path = f"{_path(model)}?{urlencode(query, errors='replace')}"
        return self._plan(self._ask("PUT", path, document, {**condition, **_once()}))

    def cause(
        self, model: str, event: str, *, revision: int, reason: str, step: int | None = None
    ) -> Plan:
        """Make ``event`` happen to the plan of ``revision``. ``step``: from 1."""
        words: dict[str, Any] = {"reason": reason.encode("utf-8", "replace").decode()}
        if step is not None:
            words["step"] = step
        body = msgspec.json.encode(words)
        headers = {**_if_match(revision), **_once()}
        return self._plan(self._ask("POST", _path(model, event), body, headers))

    # -- the wire ---------------------------------------------------------------------------------

    def _read(self, method: str, path: str, shape: type[_ShapeT]) -> _ShapeT:
        body = self._ask(method, path)
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None

    def _plan(self, body: bytes) -> Plan:
        try:
            return decode_plan(body)
        except PlanError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> NoAnswerError:
        return NoAnswerError(
            f"{self.url} answers something that this release cannot read ({error}): use the server's own release"
        )

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """The body of a success."""
        is_change, lost = headers is not None, False
        try:
            try:
                answer = self._sent(method, path, body, headers or {})
            except (ConnectionResetError, BrokenPipeError):
                lost = True  # the very same request once more: its key makes that harmless
                answer = self._sent(method, path, body, headers or {})
        except (OSError, HTTPException) as error:
            was_sent = lost or not isinstance(error, ConnectionRefusedError | socket.gaierror)
            raise self._silent(error, may_have_happened=is_change and was_sent) from None
        except ValueError as error:
            raise NoAnswerError(f"{self.url} cannot be asked: {error}") from None
        if answer.status in (200, 201):
            return answer.body
        raise self._refusal(answer)

    def _sent(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> _Answer:
        connection = self._connection(CHANGE_TIMEOUT_S if headers else ASK_TIMEOUT_S)
        about = {"content-type": "application/json"} if body else {}
        try:
            connection.request(method, path, body or None, {**self._headers, **about, **headers})
            answer = connection.getresponse()
            content = answer.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                raise HTTPException(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            return _Answer(answer.status, content, answer.getheader("retry-after", ""))
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> HTTPConnection:
        parts = urlsplit(self.url)
        if self._has_token and parts.scheme == "https" and not _is_here(parts.hostname or ""):
            # A token goes to nobody who cannot show whose he is; SSL_CERT_FILE names a CA of one's own.
            context = ssl.create_default_context()
            return HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=context
            )
        return connect(self.url, timeout_s)

    def _silent(self, error: Exception, *, may_have_happened: bool) -> NoAnswerError:
        why = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            why += "; SSL_CERT_FILE may name the file of the CA that signed its certificate"
            may_have_happened = False
        return NoAnswerError(
            f"no answer from {self.url}: {why}", may_have_happened=may_have_happened
        )

    def _refusal(self, answer: _Answer) -> RefusedError:
        try:
            said = msgspec.json.decode(answer.body, type=_Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = _Refusal()
        current: Plan | None = None
        if bytes(said.current):
            try:
                current = decode_plan(bytes(said.current))
            except PlanError:
                current = None  # the sentence says what is wrong, and a null is no plan
        after = answer.retry_after
        return RefusedError(
            answer.status,
            said.error or f"{self.url} answers {answer.status}",
            faults=said.faults,
            current=current,
            retry_after_s=float(after) if after.isascii() and after.isdigit() else None,
        )


def _path(model: str, below: str = "") -> str:
    path = f"/v2/rollouts/{quote(model, safe='', errors='surrogateescape')}"
    return f"{path}/{below}" if below else path


def _if_match(revision: int) -> dict[str, str]:
    return {"if-match": f'"{revision}"'}


def _once() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(16)}


def _is_here(host: str) -> bool:
    """Whether what is sent there stays in this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
