"""`tuner deploy` and `tuner endpoints`: which versions of a model answer, and how they do."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import click

from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.client import tables
from tuner.client.endpoints import Endpoint
from tuner.endpoint import (
    Canary,
    CanaryState,
    Recording,
    Report,
    Scaling,
    Traffic,
)
from tuner.endpoint import Endpoint as Record
from tuner.errors import NotFoundError
from tuner.model import parse_reference

_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
#: What is said of a canary that has ended.
_ENDED: Mapping[CanaryState, str] = {
    CanaryState.RUNNING: "runs",
    CanaryState.SUCCEEDED: "has succeeded",
    CanaryState.ROLLED_BACK: "was rolled back",
    CanaryState.CANCELLED: "was cancelled",
}


def _time(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> timedelta | None:
    """A time such as 30s, 10m or 2h; without a unit, seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smh]?)", value)
    if found is None:
        raise click.BadParameter(f"write a time as 30s, 10m or 2h, not {value!r}")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])


def _steps(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Percents with commas between."""
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", value):
        raise click.BadParameter(f"write percents as 5,25,100, not {value!r}")
    return tuple(map(int, value.split(",")))


_PERCENT = click.IntRange(0, 100)


@click.command()
@click.argument("version", metavar="MODEL[@ALIAS|/VERSION]")
@click.option("--endpoint", "name", help="The endpoint; left out: that of the model's name.")
@click.option(
    "--traffic",
    type=_PERCENT,
    help="Percents of the traffic it gets; left out: all, with --shadow none.",
)
@click.option(
    "--shadow",
    type=_PERCENT,
    help="Percents of the others' traffic it is asked, too; its answers are only counted.",
)
@click.option(
    "--canary",
    "steps",
    metavar="PERCENTS",
    callback=_steps,
    help="Percents one after the other, such as 5,25,100.",
)
@click.option(
    "--every",
    metavar="TIME",
    callback=_time,
    help="How long each lasts at least: 10m; left out: 5m.",
)
@click.option(
    "--min-requests", type=click.IntRange(1), help="How many requests each needs; left out: 100."
)
@click.option("--min-replicas", type=click.IntRange(0), help="Of each version, without traffic.")
@click.option("--max-replicas", type=click.IntRange(1), help="Of each version, at most.")
@click.option(
    "--idle",
    metavar="TIME",
    callback=_time,
    help="After how long without traffic the last one ends.",
)
@click.option(
    "--record", type=click.FloatRange(0, 100), help="Percents of predictions that are recorded."
)
@server_option
@click.pass_obj
def deploy(
    session: Session,
    version: str,
    name: str | None,
    traffic: int | None,
    shadow: int | None,
    steps: tuple[int, ...] | None,
    every: timedelta | None,
    min_requests: int | None,
    min_replicas: int | None,
    max_replicas: int | None,
    idle: timedelta | None,
    record: float | None,
) -> None:
    """Give a version of MODEL traffic of an endpoint, which is created if there is none.

    The others keep their proportions. A first version gets all. With --canary it gets its traffic
    step by step, and loses it if it fails more often or is slower than the others.
    """
    if steps is None and (every is not None or min_requests is not None):
        raise click.UsageError("--every and --min-requests go with --canary")
    if steps is not None and traffic is not None:
        raise click.UsageError("name --traffic or --canary")
    endpoint = session.client.endpoint(name or parse_reference(version)[0])
    known = _known(endpoint)
    given = {"min_replicas": min_replicas, "max_replicas": max_replicas, "idle_time": idle}
    canary = None if steps is None else _canary(steps, every, min_requests)
    served = endpoint.deploy(
        version,
        _percent(traffic, shadow),
        shadow_percent=shadow or 0,
        canary=canary,
        scaling=_scaling(known, {k: v for k, v in given.items() if v is not None}),
        recording=_recording(known, record),
    )
    _say(session, served)
    if not session.client.gateways():
        session.note("no gateway answers yet; start one: tuner gateway")


@click.group(invoke_without_command=True)
@server_option
@click.pass_context
def endpoints(context: click.Context) -> None:
    """List and manage endpoints; alone, it lists them."""
    if context.invoked_subcommand is None:
        _list(context.find_object(Session) or Session())


@endpoints.command("list")
@server_option
@click.pass_obj
def list_(session: Session) -> None:
    """List the endpoints."""
    _list(session)


@endpoints.command()
@click.argument("name")
@click.option(
    "--window",
    metavar="TIME",
    callback=_time,
    default="1h",
    show_default=True,
    help="Of how much time.",
)
@server_option
@click.pass_obj
def show(session: Session, name: str, window: timedelta) -> None:
    """Show the split of an endpoint, its traffic, and what became of its predictions."""
    endpoint = session.client.endpoint(name)
    record, report = endpoint.refresh(), endpoint.report(window)
    if session.as_json:
        session.print_json({**documents.endpoint(record), **documents.endpoint_report(report)})
        return
    session.say(_line(record))
    for line in (record.description, _canary_line(record)):
        if line:
            session.say(line)
    _show_versions(session, record, report)
    _show_results(session, report)
    # Gateways say the same of the same version.
    for version, failure in dict.fromkeys(
        (each.version, each.failure) for each in report.replicas
    ):
        if failure:
            session.say(f"version {version} does not start: {failure}")


@endpoints.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@server_option
@click.pass_obj
def undeploy(session: Session, name: str, version: int) -> None:
    """Take a VERSION from an endpoint; the others get its traffic."""
    _say(session, session.client.endpoint(name).undeploy(version))


@endpoints.command()
@click.argument("name")
@click.argument("percents", metavar="VERSION=PERCENT...", nargs=-1, required=True)
@server_option
@click.pass_obj
def traffic(session: Session, name: str, percents: tuple[str, ...]) -> None:
    """Split the traffic of an endpoint, such as 3=90 4=10; who is not named gets none."""
    split = dict[int, int]()
    for word in percents:
        found = re.fullmatch(r"(\d{1,9})=(\d{1,3})%?", word)
        if found is None or int(found[1]) in split:
            raise click.UsageError(f"write each version once, as VERSION=PERCENT, not {word!r}")
        split[int(found[1])] = int(found[2])
    _say(session, session.client.endpoint(name).split(split))


@endpoints.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for people.")
@server_option
@click.pass_obj
def rollback(session: Session, name: str, reason: str) -> None:
    """End the canary of an endpoint: the others get the traffic again."""
    _say(session, session.client.endpoint(name).roll_back(reason))


@endpoints.command()
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_option
@click.pass_obj
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete an endpoint, with what was recorded of it; the versions stay."""
    if not yes:
        if session.as_json or not sys.stdin.isatty():
            raise click.UsageError(f"deleting {name} needs --yes")
        click.confirm(f"delete {name}?", abort=True)
    session.client.endpoint(name).delete()
    if session.as_json:
        session.print_json({"deleted": name})
    else:
        session.say(f"{name} is deleted")


def _known(endpoint: Endpoint) -> Record | None:
    try:
        return endpoint.refresh()
    except NotFoundError:
        return None


def _percent(traffic: int | None, shadow: int | None) -> int:
    if traffic is not None:
        return traffic
    return 100 if shadow is None else 0


def _canary(steps: tuple[int, ...], every: timedelta | None, min_requests: int | None) -> Canary:
    usual = Canary(steps=steps)
    return Canary(
        steps=steps,
        step_time=usual.step_time if every is None else every,
        min_requests=min_requests or usual.min_requests,
    )


def _scaling(known: Record | None, given: Mapping[str, object]) -> Scaling | None:
    """The endpoint's scaling with what was given; None: as it was."""
    if not given:
        return None
    usual = Scaling() if known is None else known.scaling
    names = ("min_replicas", "max_replicas", "target_concurrency", "idle_time", "max_queue")
    values = {**{name: getattr(usual, name) for name in names}, **given}
    if "max_replicas" not in given:
        values["max_replicas"] = max(values["max_replicas"], values["min_replicas"])
    return Scaling(**values)


def _recording(known: Record | None, percent: float | None) -> Recording | None:
    if percent is None:
        return None
    usual = Recording() if known is None else known.recording
    return Recording(percent=percent, keep_time=usual.keep_time)


def _say(session: Session, record: Record) -> None:
    if session.as_json:
        session.print_json(documents.endpoint(record))
        return
    session.say(_line(record))
    line = _canary_line(record)
    if line:
        session.say(line)


def _line(record: Record) -> str:
    noun = "version" if len(record.deployments) == 1 else "versions"
    split = f"{noun} {_split(record)}" if record.deployments else "no version yet"
    model = "" if record.model_id == record.endpoint_id else f" of model {record.model_id}"
    return f"endpoint {record.endpoint_id}{model}: {split}"


def _split(record: Record) -> str:
    """`3 at 90%, 4 at 10%`."""
    return ", ".join(
        f"{each.version} at {each.percent}%"
        + (f" and {each.shadow_percent}% as a shadow" if each.shadow_percent else "")
        for each in record.deployments
    )


def _canary_line(record: Record) -> str:
    canary = record.canary
    if canary is None:
        return ""
    if canary.state is not CanaryState.RUNNING or canary.step_start_time is None:
        return f"the canary of version {canary.version} {_ENDED[canary.state]}: {canary.reason}"
    return (
        f"a canary of version {canary.version} is at {canary.steps[canary.step]}%, step "
        f"{canary.step + 1} of {len(canary.steps)}, for {tables.age(canary.step_start_time)}"
    )


def _list(session: Session) -> None:
    found = [each.record for each in session.client.endpoints()]
    if session.as_json:
        session.print_json([documents.endpoint(record) for record in found])
    elif found:
        view = tables.table()
        for title in ("endpoint", "model", "versions", "canary", "changed"):
            view.add_column(title, no_wrap=title != "versions")
        for record in found:
            state = "" if record.canary is None else record.canary.state
            view.add_row(
                record.endpoint_id,
                record.model_id,
                _split(record) or "none",
                state.lower().replace("_", " "),
                f"{tables.age(record.update_time)} ago",
            )
        session.out.print(tables.fitted(view, session.out, "endpoint", "model"))
    else:
        session.say("no endpoints; `tuner deploy MODEL` makes one")


def _show_versions(session: Session, record: Record, report: Report) -> None:
    view, seconds = tables.table(), _seconds(report)
    view.add_column("version", no_wrap=True)
    for title in ("traffic", "replicas", "calls", "per s", "failed", "differ", "p50", "p99"):
        view.add_column(title, justify="right", no_wrap=True)
    percents = {(each.version, False): each.percent for each in record.deployments}
    percents |= {
        (each.version, True): each.shadow_percent
        for each in record.deployments
        if each.shadow_percent
    }
    for version, shadow in sorted({*percents, *report.totals}):
        place = (version, shadow)
        did = report.totals.get(place, Traffic())
        ready = sum(each.ready for each in report.replicas if each.version == version)
        view.add_row(
            f"{version} shadow" if shadow else str(version),
            f"{percents[place]}%" if place in percents else "",
            "" if shadow else str(ready),
            f"{did.requests:,}",
            _short(did.requests / seconds) if did.requests else "",
            f"{did.errors / did.requests:.2%}" if did.requests else "",
            f"{did.differences / did.requests:.2%}" if shadow and did.requests else "",
            _latency(did, 0.5),
            _latency(did, 0.99),
        )
    session.out.print(view)


def _show_results(session: Session, report: Report) -> None:
    if not report.results:
        return
    view = tables.table()
    view.add_column("result", overflow="fold")
    for title in ("version", "results", "mean", "deviation", "difference", "p"):
        view.add_column(title, justify="right", no_wrap=True)
    for each in report.results:
        view.add_row(
            each.result,
            str(each.version),
            f"{each.count:,}",
            tables.number(each.mean),
            tables.number(each.standard_deviation),
            f"{each.difference:+.4g}" if each.difference else "",
            "" if each.p_value is None else f"{each.p_value:.2g}",
        )
    session.out.print(view)


def _seconds(report: Report) -> float:
    """The time that the report's minutes cover, up to now."""
    begun = min((minute.start_time for minute in report.minutes), default=datetime.now(UTC))
    return max((datetime.now(UTC) - begun).total_seconds(), 1.0)


def _latency(traffic: Traffic, share: float) -> str:
    """Known to a sixth: two digits say it."""
    seconds = traffic.quantile(share)
    if seconds is None:
        return ""
    return f"{_short(seconds)} s" if seconds >= 1 else f"{_short(1000 * seconds)} ms"


def _short(value: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
