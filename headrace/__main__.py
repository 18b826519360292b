"""``headrace``: every command of the product. Thin: it parses, calls a process's own entry, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headrace import (
    __version__,
    audit_commands,
    feature_commands,
    key_commands,
    model_commands,
    rollout_commands,
    token_commands,
)
from headrace.command_line import fail, settings_here
from headrace.health import admin_url, complaint

app = typer.Typer(
    help="Serve machine-learning models over the Open Inference Protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(feature_commands.app, name="features")
app.add_typer(key_commands.app, name="key")
app.add_typer(model_commands.app, name="models")
app.add_typer(rollout_commands.app, name="rollout")
app.add_typer(token_commands.app, name="token")
app.add_typer(audit_commands.app, name="audit")


def _say(line: str) -> None:
    try:
        print(line.encode(errors="backslashreplace").decode(), flush=True)
    except OSError:  # whoever read this has gone, the callers have not
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


def _port(what: str, default: int) -> Any:
    return typer.Option(
        min=0,
        max=65535,
        show_default=False,
        help=f"{what}; 0 picks a free one and prints it. \\[default: {default}]",
    )


# No defaults here: those stand in gateway/settings.py, and what is not given must not hide the file's value.
# The backslash keeps them in the help: rich would take what stands in brackets for its markup.
Models = Annotated[
    Path | None,
    typer.Option(
        show_default=False, help="Folder with <model>/<version>/model.onnx. \\[default: models]"
    ),
]
HttpPort = Annotated[int | None, _port("REST port", 8000)]
GrpcPort = Annotated[int | None, _port("gRPC port", 8001)]
AdminPort = Annotated[int | None, _port("Port for metrics and status", 8002)]
Host = Annotated[
    str | None,
    typer.Option(show_default=False, help="Address to listen on. \\[default: 127.0.0.1]"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, show_default=False, help="Processes that share the ports. \\[default: 1]"
    ),
]
Control = Annotated[
    Literal["none", "explicit", "poll"] | None,
    typer.Option(
        show_default=False,
        help="Who changes what is served: nobody, callers of load and unload, or the folder itself."
        " \\[default: none]",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(show_default=False, help="Certificate in PEM: REST and gRPC with TLS only."),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(show_default=False, help="Its key. \\[default: in the certificate's file]"),
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(show_default=False, help="CA whose certificates clients must show."),
]
AccessLog = Annotated[
    bool | None, typer.Option(show_default=False, help="Log a line for each infer call.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        show_default=False, help="Settings file. \\[default: headrace.toml here, if there is one]"
    ),
]


@app.command()
def serve(
    models: Models = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    admin_port: AdminPort = None,
    host: Host = None,
    workers: Workers = None,
    control: Control = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    access_log: AccessLog = None,
    config: Config = None,
) -> None:
    """Serve a folder of ONNX models over REST and gRPC until SIGTERM.

    Try it:  curl http://127.0.0.1:8000/v2/models/<model>

    Every setting can stand in headrace.toml or in a variable HEADRACE_<SECTION>_<KEY>, for example
    HEADRACE_DRAIN_DELAY_S=5; options win over variables, variables over the file.
    """
    options: dict[str, dict[str, Any]] = {
        "server": {
            "http_port": http_port,
            "grpc_port": grpc_port,
            "admin_port": admin_port,
            "host": host,
            "workers": workers,
        },
        "repository": {
            "models": None if models is None else str(models),
            "control": control,
        },
        "tls": {
            key: None if file is None else str(file)
            for key, file in (
                ("cert_file", tls_cert),
                ("key_file", tls_key),
                ("client_ca_file", tls_client_ca),
            )
        },
        "telemetry": {"access_log": access_log},
    }
    given = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in options.items()
    }
    settings = settings_here(config, given)
    from gateway.__main__ import run  # the runtime is heavy; --help should not wait for it

    raise typer.Exit(run(settings, __version__, _say))


@app.command()
def health(
    url: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Admin address, such as http://127.0.0.1:8002. \\[default: from the settings]",
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, max=60, help="How long an answer may take.")
    ] = 3.0,
    config: Config = None,
) -> None:
    """Ask a running server whether it takes calls. Exit code 0: yes. 1: no, or no answer.

    Without --url it reads the file and the variables that serve reads, not the options that serve was given.
    """
    if url is None:
        url = admin_url(settings_here(config))
    if problem := complaint(url, timeout_s):
        fail(problem)
    _say("ready")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
