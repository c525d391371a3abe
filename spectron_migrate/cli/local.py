"""`spectron-migrate local`."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct
from spectron_migrate.cli.ending import interrupted
from spectron_migrate.errors import InputError

if TYPE_CHECKING:
    from spectron_migrate.local.extract import Extractor
    from spectron_migrate.records import Json

DEFAULT_KEY = "sk-local"
KEY_LENGTH_OFF_LOOPBACK = 16
APIS = ("0.0.0", "0.2.1")


def command(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.", metavar="N")] = 9090,
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory to keep the data in; else in memory.", metavar="DIR")
    ] = None,
    context: Annotated[str, typer.Option("--context", help="Name of the context it serves.", metavar="NAME")] = "local",
    no_extraction: Annotated[
        bool, typer.Option("--no-extraction", help="Store text only, as a Context does by default.")
    ] = False,
    api: Annotated[
        str, typer.Option("--api", help="Generation of the published API: 0.0.0 or 0.2.1.", metavar="VERSION")
    ] = "0.0.0",
    model_endpoint: Annotated[
        str | None,
        typer.Option(
            "--model-endpoint",
            help="Extract by a model behind this OpenAI-compatible URL, not by rules.",
            metavar="URL",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model's name there.", metavar="NAME")] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Serve a local Spectron that keeps the published contract.

    The key is SPECTRON_API_KEY, or sk-local. It extracts by a small set of rules, where the hosted service
    uses a language model, and it ranks differently. With --model-endpoint and --model (or
    SPECTRON_LOCAL_MODEL_ENDPOINT, SPECTRON_LOCAL_MODEL, and SPECTRON_LOCAL_MODEL_API_KEY if it wants a key)
    it sends each text to that model instead.

    Example: spectron-migrate local --data spectron-data
    """

    def work(stage: Stage) -> Outcome:
        key = stage.environment.get("SPECTRON_API_KEY") or DEFAULT_KEY
        _check(host, key, api, context)
        serve, StoreRefused = _server()  # noqa: N806 - a class
        extractor, how = _extractor(stage.environment, model_endpoint, model)
        served: dict[str, Json] = {}

        def ready(base_url: str) -> None:
            served["endpoint"] = base_url
            told = f"SPECTRON_ENDPOINT={base_url} SPECTRON_CONTEXT={context}"
            key_told = " SPECTRON_API_KEY=sk-local" if key == DEFAULT_KEY else ""
            # Scripts wait for this line on stderr; stdout stays data.
            said = "stores text only" if no_extraction else how
            sys.stderr.write(f"local Spectron at {base_url}, context {context}, {said}\n  {told}{key_told}\n")
            sys.stderr.flush()

        try:
            serve(
                host=host,
                port=port,
                data=data,
                context=context,
                api_key=key,
                extraction=not no_extraction,
                api=api,
                ready=ready,
                extractor=extractor,
            )
        except KeyboardInterrupt:  # how a server ends; before it served there is nothing to tell of
            if not served:
                raise
        except StoreRefused as error:
            raise InputError(
                f"the local Spectron cannot serve {data}: {error}",
                hint="name another --data, or end whoever has it open",
            ) from error
        except OSError as error:
            raise InputError(
                f"the local Spectron cannot listen on {host}:{port}: {error.strerror or error}",
                hint="--port 0 takes any free port",
            ) from error
        served |= {"context": context, "data": data and str(data), "api": api, "extraction": not no_extraction}
        return Outcome(interrupted().exit_code, served, lambda console: None)

    return conduct("local", options.common(config, state, as_json, quiet, verbose), work)


def _check(host: str, key: str, api: str, context: str) -> None:
    from spectron_migrate.settings.values import parse_context

    problems = []
    try:
        parse_context(context)
    except ValueError as error:
        problems.append(f"--context {error}")
    if api not in APIS:
        problems.append(f"--api is {api}, it must be one of {', '.join(APIS)}")
    if not _loopback(host) and len(key) < KEY_LENGTH_OFF_LOOPBACK:
        problems.append(f"off loopback SPECTRON_API_KEY must have {KEY_LENGTH_OFF_LOOPBACK} or more characters")
    if problems:
        raise InputError.of_all(problems)


def _extractor(environment: Mapping[str, str], endpoint: str | None, model: str | None) -> tuple[Extractor, str]:
    """Who draws facts from text, and that in words; options beat the environment."""
    from spectron_migrate.local.language_model import ENDPOINT, MODEL, LanguageModelExtractor, from_environment

    given = {name: value for name, value in ((ENDPOINT, endpoint), (MODEL, model)) if value}
    try:
        extractor = from_environment({**environment, **given})
    except ValueError as error:
        raise InputError(
            f"the language model for extraction: {error}", hint="--model-endpoint and --model set both"
        ) from error
    if isinstance(extractor, LanguageModelExtractor):
        return extractor, f"texts go to {extractor.where} for extraction"
    return extractor, "extracts by rules"


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _server() -> tuple[Callable[..., None], type[Exception]]:
    """The server's entry, and what it raises for data that is not its own.

    It comes with an extra that a migration alone does not need.
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
