"""A schedule in Prefect: which recipe runs when, on the worker of `nightschool up`.

No concurrency limit is set on the deployment: Prefect's limit renews a lease and cancels healthy work when the API
hiccups, so two nights are kept apart by our own lease instead.
"""

import difflib
import os
from contextlib import suppress
from pathlib import Path
from zoneinfo import available_timezones

from pydantic import ValidationError

from flows.checks import checked_recipe
from flows.recipe_file import find_recipe
from flows.servers.connection import auth_string
from flows.servers.prefect import POOL
from tasks.core.errors import UserError

ENTRYPOINT = "flows/nights/nightly.py:nightly"
PROJECT = Path(__file__).resolve().parent.parent.parent


def deploy(home: Path, recipe_path: Path, cron: str, timezone: str, api_url: str) -> str:
    """Create the recipe's deployment, or replace its schedule, and return its name, "<flow>/<recipe>".

    Args:
        home: what the runs get as NIGHTSCHOOL_HOME.
        recipe_path: a recipe's file or the name of one that ships.
        cron: five fields, such as "0 2 * * *".
        timezone: an IANA name, such as "Europe/Berlin"; the schedule follows its daylight saving time.
        api_url: the Prefect server, of the user or of `flows.servers.services`.

    Raises:
        UserError: the recipe, the cron line or the time zone is wrong; nothing was created.
    """
    recipe = checked_recipe(recipe_path)
    parameters = {"recipe": str(find_recipe(recipe_path))}
    return deploy_flow(PROJECT, ENTRYPOINT, recipe.name, parameters, home, cron, timezone, api_url)


def deploy_flow(
    folder: Path,
    entrypoint: str,
    name: str,
    parameters: dict[str, str],
    home: Path,
    cron: str,
    timezone: str,
    api_url: str,
) -> str:
    """Deploy the flow at `entrypoint`, "<path>:<function>" below `folder`, in which the worker will run it."""
    # Prefect makes its folder when it is first imported: in our home, not in the user's.
    os.environ.setdefault("PREFECT_HOME", str(home.resolve() / "prefect"))
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.flows import Flow, load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    check_schedule(cron, timezone)
    flow: Flow[..., object] = load_flow_from_entrypoint(str(folder / entrypoint))
    # A server of ours has made its pool; one of the user's may have none yet.
    with SyncPrefectClient(api_url, auth_string=auth_string(home, api_url)) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        # The server replaces a deployment of the same name together with its schedules and their future runs.
        client.create_deployment(
            flow_id=client.create_flow_from_name(flow.name),
            name=name,
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone=timezone), active=True)],
            parameters=parameters,
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            work_pool_name=POOL,
            path=str(folder),
            entrypoint=entrypoint,
            job_variables={"working_dir": str(folder), "env": {"NIGHTSCHOOL_HOME": str(home.resolve())}},
        )
    return f"{flow.name}/{name}"


def check_schedule(cron: str, timezone: str) -> None:
    """Raise UserError unless this is a cron line of five fields and the time zone exists."""
    from prefect.client.schemas.schedules import CronSchedule

    if not timezone or timezone not in available_timezones():
        near = difflib.get_close_matches(timezone, available_timezones(), n=1)
        hint = f"did you mean {near[0]}?" if near else "give an IANA name such as Europe/Berlin"
        raise UserError(f"there is no time zone {timezone!r}; {hint}")
    try:
        CronSchedule(cron=cron, timezone=timezone)
        sound = len(cron.split()) == 5 or cron.startswith("@")
    except ValidationError:
        sound = False
    if not sound:
        raise UserError(
            f"{cron!r} is not a cron line; give minute, hour, day of month, month and day of week, "
            'such as "0 2 * * *" for every night at two'
        )
