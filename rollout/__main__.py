"""``python -m rollout``: the controller of rollouts as a process of its own. Thin: it parses, and calls the process."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from foundation.settings import SettingsError
from rollout.process import WRONG_START, read_settings, run

DEFAULT_FILE = Path("headrace.toml")

_WHAT = """\
Control the rollouts of a store: read what the gateways count, and move the weights by the plans.

One controller leads at a time. A second one, here or on another machine, stands by and takes over within
about four seconds when the first is gone; a gateway with [rollout] control = true is one, too."""

_HOW = """\
settings, in headrace.toml or as variables HEADRACE_<SECTION>_<KEY>; variables win over the file:
  [store]    redis_url          the Redis or Valkey server that the gateways use;
                                empty: the private one of [store] state_dir on this machine
  [rollout]  state_dir          folder of the audit log (.headrace)
             audit_file         the audit log itself (audit.jsonl in state_dir)
             tick_interval_ms   how often every plan is looked at (500)
             store_timeout_ms   what one call to the store may take (1000)

examples:
  python -m rollout
  HEADRACE_STORE_REDIS_URL=redis://10.0.0.5:6379 python -m rollout --config /etc/headrace.toml

SIGTERM or Ctrl-C lets the next controller lead at once and ends with 0; 2 says that it could not start.
Without an audit log that can be written, candidates get no more traffic, and harm is rolled back all the same."""


def main() -> int:
    """Parse, read the settings, and run; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rollout",
        description=_WHAT,
        epilog=_HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings file, the gateway's will do (default: headrace.toml here, if there is one)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is not worth a line on standard error (default: %(default)s)",
    )
    arguments = parser.parse_args()
    file = arguments.config or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)
    try:
        settings = read_settings(file, os.environ)
    except SettingsError as error:
        print(f"rollout: {error}", file=sys.stderr)
        return WRONG_START
    return run(settings, arguments.log_level, lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main())
