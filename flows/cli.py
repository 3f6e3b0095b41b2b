"""The command line. Every verb is a few lines over one function; what is heavy is imported when its verb is used."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.core.errors import StageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

app = typer.Typer(
    help="Nightly pre-training: ingest, deduplicate, tokenize, train, fine-tune, and trace every model to its data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe's path, or the name of one that ships: quickstart.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", metavar="STAGE", help="Accept this stage's old output although its code or libraries have changed."
    ),
]


@app.command()
def quickstart(as_json: Json = False) -> None:
    """Run the whole pipeline on the documentation that came with this Python: no account, no download.

    Example: nightschool quickstart
    """
    _run(Path("quickstart"), as_json)


@app.command()
def run(recipe: RecipeArgument, keep: Keep = None, as_json: Json = False) -> None:
    """Run a recipe now; what has been computed before is reused.

    Example: nightschool run my-recipe.yaml --keep ingest
    """
    _run(recipe, as_json, keep)


@app.command()
def plan(recipe: RecipeArgument, as_json: Json = False) -> None:
    """Say, stage by stage, what a run would reuse, resume or run, and which field makes the difference.

    Example: nightschool plan my-recipe.yaml
    """
    from flows.recipe_file import read_recipe_file

    read_recipe_file(recipe)
    from flows.nights.ledger import home_folder
    from flows.plan import make_plan
    from flows.terminal.summary import plan_table

    steps = make_plan(recipe, home_folder())
    _show(as_json, [vars(step) for step in steps], lambda: plan_table(steps))


@app.command()
def rerun(
    night: Annotated[str | None, typer.Argument(help="A night's id; without it, the last one.")] = None,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Go on with a failed or killed night from its first unfinished stage, in the same MLflow run.

    Example: nightschool rerun 20261128-020000-3f9a
    """
    from flows.nights.ledger import Ledger, home_folder

    failed = Ledger(home_folder()).to_rerun(night)
    _run(Path(failed.recipe_path), as_json, keep, failed.id)


@app.command()
def up(as_json: Json = False) -> None:
    """Start Prefect's and MLflow's servers and a worker for schedules, in the background.

    Example: nightschool up
    """
    from flows.nights.ledger import home_folder
    from flows.servers import services
    from flows.terminal.summary import up_table

    started = services.up(home_folder())
    link = started.make_link()
    values = {
        "parts": [vars(part) for part in started.parts],
        "pages": started.pages,
        "link": link,
        "clients": str(started.clients_file),
    }
    _show(as_json, values, lambda: up_table(started, link))


@app.command()
def down(as_json: Json = False) -> None:
    """End what `up` started; a training run on the worker saves first.

    Example: nightschool down
    """
    from flows.nights.ledger import home_folder
    from flows.servers import services

    ended = services.down(home_folder())
    _show(as_json, list(ended), lambda: f"ended: {', '.join(ended)}" if ended else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """Say what is running: the services of `up`, and the last nights with their progress.

    Example: nightschool status --json
    """
    from flows.nights.ledger import Ledger, home_folder
    from flows.servers import services
    from flows.terminal.summary import status_table

    nights = Ledger(home_folder()).nights()[-10:]
    running = services.running(home_folder())
    values = {
        "services": [vars(part) for part in running.parts] if running else [],
        "nights": [night.model_dump(mode="json") for night in nights],
    }
    _show(as_json, values, lambda: status_table(home_folder(), running, nights))


@app.command()
def deploy(
    recipe: RecipeArgument,
    cron: Annotated[str, typer.Option(help="When, as a cron line.")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="The time zone of the cron line.")] = "UTC",
    as_json: Json = False,
) -> None:
    """Schedule a recipe on the worker of `up`.

    Example: nightschool deploy my-recipe.yaml --cron "0 2 * * *" --timezone Europe/Berlin
    """
    from flows.nights.ledger import home_folder
    from flows.recipe_file import find_recipe
    from flows.servers import services
    from flows.servers.connection import existing_api_url
    from flows.servers.deployment import deploy as create
    from flows.terminal.foreground import check_recipe

    check_recipe(recipe)
    api_url = existing_api_url(home_folder())
    if api_url is None:
        raise UserError("no Prefect server is running that could keep a schedule; start it with `nightschool up`")
    name = create(home_folder(), find_recipe(recipe), cron, timezone, api_url)
    running = services.running(home_folder())
    is_ours = running is not None and api_url == running.api_url
    page = running.pages["prefect"] if running and is_ours else api_url.removesuffix("/api")
    said = f"{name} runs at `{cron}` {timezone}; see {page}/deployments"
    _show(as_json, {"deployment": name, "cron": cron, "timezone": timezone}, lambda: said)


@app.command()
def settings(
    key: Annotated[str | None, typer.Argument(help="A key such as pretrain.batch, a part of one, or a word.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page .github/SETTINGS.md.")] = False,
    as_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema that editors use.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a recipe may say: each key with its values, its default and its meaning.

    Example: nightschool settings learning_rate
    """
    from flows import reference

    if as_markdown or as_schema:
        print(reference.as_markdown() if as_markdown else reference.schema_text(), end="")
        return
    from flows.terminal.summary import settings_table

    found = reference.look_up(key) if key else reference.settings()
    _show(as_json, [vars(one) for one in found], lambda: settings_table(found))


@app.command()
def sync(as_json: Json = False) -> None:
    """Bring MLflow level with the journals: after an outage, or to rebuild an empty one.

    Example: nightschool sync
    """
    from flows.nights.ledger import Ledger, home_folder
    from flows.nights.session import sync_all

    sent = sync_all(Ledger(home_folder()))
    said = f"MLflow is level with {len(sent)} nights; {sum(sent.values())} records were sent"
    _show(as_json, {"sent": sent}, lambda: said)


def _run(recipe: Path, as_json: bool, keep: list[str] | None = None, night_id: str | None = None) -> None:
    from flows.terminal.console import Console
    from flows.terminal.foreground import NightFailed, run_night
    from flows.terminal.summary import night_summary

    try:
        night = run_night(recipe, Console(stderr=as_json), keep, night_id)
    except NightFailed as failure:
        _complain(f"{failure} (traceback: {failure.log})")
        _complain(f"to go on from there: nightschool rerun {failure.night.id}")
        raise typer.Exit(2 if isinstance(failure.__cause__, UserError) else 1) from failure
    _show(as_json, night.model_dump(mode="json"), lambda: night_summary(night))


def _complain(what: str) -> None:
    from flows.terminal.printable import printable

    print(printable(what), file=sys.stderr)


def _show(as_json: bool, value: object, text: "Callable[[], RenderableType | str]") -> None:
    """Print a JSON value or what a person reads, which is only drawn when wanted."""
    if as_json:
        print(json.dumps(value, indent=1, default=str))
        return
    from flows.terminal.console import Console
    from flows.terminal.printable import shown

    drawn = text()
    Console().print(shown(drawn) if isinstance(drawn, str) else drawn, highlight=False, crop=False)


def main() -> None:
    """Run the command line: exit code 2 for the user's mistakes, 1 for failures, one sentence either way."""
    os.umask(0o077)  # what a home holds is for its owner
    try:
        app()
    except (UserError, StageError) as error:
        from flows.terminal.printable import sentence

        print(sentence(str(error)), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
