"""`spectron-migrate local`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.options import GlobalOptions, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.errors import InputError

if TYPE_CHECKING:
    from spectron_migrate.local.extract import Extractor
    from spectron_migrate.records import Json

DEFAULT_KEY = "sk-local"
KEY_LENGTH_OFF_LOOPBACK = 16
APIS = ("0.0.0", "0.2.1", "0.3.0")


@dataclass(frozen=True)
class ServerOptions:
    """The options of a local server."""

    host: str
    port: int
    data: Path | None
    context: str
    extraction: bool
    api: str
    model_endpoint: str | None
    model: str | None


@with_global_options
def command(
    options: GlobalOptions,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free port.", metavar="N")] = 9090,
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory to keep the data in; else in memory.", metavar="DIR")
    ] = None,
    context: Annotated[str, typer.Option("--context", help="Name of the context to serve.", metavar="NAME")] = "local",
    no_extraction: Annotated[
        bool, typer.Option("--no-extraction", help="Only store texts, as a Context does by default.")
    ] = False,
    api: Annotated[
        str, typer.Option("--api", help="Generation of the published API: 0.0.0, 0.2.1 or 0.3.0.", metavar="VERSION")
    ] = "0.3.0",
    model_endpoint: Annotated[
        str | None,
        typer.Option(
            "--model-endpoint",
            help="Extract with a model behind this OpenAI-compatible URL, not with rules.",
            metavar="URL",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of that model.", metavar="NAME")] = None,
) -> int:
    """Serve a local Spectron that keeps the published contract.

    The key is SPECTRON_API_KEY, or sk-local. It extracts with a small set of rules, where the hosted service
    uses a language model, and it ranks differently. With --model-endpoint and --model (or
    SPECTRON_LOCAL_MODEL_ENDPOINT, SPECTRON_LOCAL_MODEL, and SPECTRON_LOCAL_MODEL_API_KEY if it wants a key)
    it sends each text to that model instead.

    Example: spectron-migrate local --data spectron-data
    """
    server_options = ServerOptions(host, port, data, context, not no_extraction, api, model_endpoint, model)
    return run_command("local", options, lambda invocation: run(invocation, server_options))


def run(invocation: Invocation, options: ServerOptions) -> CommandResult:
    """Serve until a signal; prints on stderr how to reach it as soon as it answers."""
    key = invocation.environment.get("SPECTRON_API_KEY") or DEFAULT_KEY
    _check(options, key)
    serve, StoreRefused = _import_server()  # noqa: N806 - a class
    extractor, extraction = _extractor(invocation.environment, options)
    endpoint = ""

    def print_address(base_url: str) -> None:
        nonlocal endpoint
        endpoint = base_url
        variables = f"SPECTRON_ENDPOINT={base_url} SPECTRON_CONTEXT={options.context}"
        if key == DEFAULT_KEY:
            variables += f" SPECTRON_API_KEY={DEFAULT_KEY}"
        # Scripts wait for this line on stderr; stdout stays data.
        what = extraction if options.extraction else "stores text only"
        sys.stderr.write(f"local Spectron at {base_url}, context {options.context}, {what}\n  {variables}\n")
        sys.stderr.flush()

    try:
        serve(
            host=options.host,
            port=options.port,
            data=options.data,
            context=options.context,
            api_key=key,
            extraction=options.extraction,
            api=options.api,
            ready=print_address,
            extractor=extractor,
        )
    except KeyboardInterrupt:  # the normal end of a server
        if not endpoint:
            raise
    except StoreRefused as error:
        raise InputError(
            f"the local Spectron cannot serve {options.data}: {error}",
            hint="name another --data, or stop the process that has it open",
        ) from error
    except OSError as error:
        raise InputError(
            f"the local Spectron cannot listen on {options.host}:{options.port}: {error.strerror or error}",
            hint="--port 0 takes any free port",
        ) from error
    body: dict[str, Json] = {
        "endpoint": endpoint,
        "context": options.context,
        "data": options.data and str(options.data),
        "api": options.api,
        "extraction": options.extraction,
    }
    return CommandResult(interrupted().exit_code, body)


def _check(options: ServerOptions, key: str) -> None:
    from spectron_migrate.settings.values import is_loopback, parse_context

    problems = []
    try:
        parse_context(options.context)
    except ValueError as error:
        problems.append(f"--context {error}")
    if options.api not in APIS:
        problems.append(f"--api is {options.api}, it must be one of {', '.join(APIS)}")
    if not is_loopback(options.host) and len(key) < KEY_LENGTH_OFF_LOOPBACK:
        problems.append(f"off loopback SPECTRON_API_KEY must have {KEY_LENGTH_OFF_LOOPBACK} or more characters")
    if problems:
        raise InputError.of_all(problems)


def _extractor(environment: Mapping[str, str], options: ServerOptions) -> tuple[Extractor, str]:
    """The extractor and its description; options beat the environment."""
    from spectron_migrate.local.language_model import ENDPOINT, MODEL, LanguageModelExtractor, from_environment

    named = ((ENDPOINT, options.model_endpoint), (MODEL, options.model))
    try:
        extractor = from_environment({**environment, **{name: value for name, value in named if value}})
    except ValueError as error:
        raise InputError(
            f"the language model for extraction: {error}", hint="--model-endpoint and --model set both"
        ) from error
    if isinstance(extractor, LanguageModelExtractor):
        return extractor, f"texts go to {extractor.where} for extraction"
    return extractor, "extracts by rules"


def _import_server() -> tuple[Callable[..., None], type[Exception]]:
    """The server's entry, and the error it raises for data of another server or context.

    It needs an extra that a migration does not need; raises InputError without it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from spectron_migrate.local.server import StoreRefused, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "spectron_migrate":
            raise
        raise InputError(
            f"the local Spectron needs the extra `local` ({error.name} is not installed)",
            hint="pip install 'spectron-migrate[local]'",
        ) from error
    return serve, StoreRefused
