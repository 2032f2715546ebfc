"""What `edgeops fleet` prints for people: tables and a rollout explained, from the API's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeops.clock import iso

_PHASE_STYLES = {
    "completed": "green",
    "canary": "cyan",
    "rolling_out": "cyan",
    "paused": "yellow",
    "rolling_back": "red",
    "aborted": "red",
    "failed": "bold red",
}
_STATUS_STYLES = {"updated": "green", "failed": "red", "installed": "cyan", "returned": "yellow"}


def show(what: RenderableType) -> None:
    """Prints it on standard output; colours on a terminal only."""
    Console().print(what)


def devices_table(devices: Sequence[dict[str, Any]]) -> Table:
    """Devices by name."""
    table = _table("device", "site", "state", "runs", "requests", "should run", "update", "seen")
    for each in devices:
        running, wanted = each["running"], each["wanted"]
        state = "revoked" if each["revoked"] else "online" if each["online"] else "offline"
        table.add_row(
            each["name"],
            each["site"],
            Text(state, "green" if state == "online" else "red"),
            _label(running) if running else "nothing",
            f"{running['requests']:,}" if running else "",
            Text(_label(wanted["bundle"]) if wanted and wanted["bundle"] else "nothing").append(
                "" if each["in_sync"] else "  not yet", "yellow"
            ),
            each["update"]["phase"],
            _time(each["seen_at_ms"]),
        )
    return table


def drift_table(answer: dict[str, Any]) -> Table:
    """Drift scores; those that drifted stand out."""
    table = _table("model", "site", "feature", "values", "KS", "threshold", "PSI", "threshold", "")
    table.title = f"Against the training data, at {_time(answer['at_ms'])}"
    for each in answer["scores"]:
        table.add_row(
            f"{each['model']} {each['digest'][:8]}",
            each["site"],
            each["feature"],
            f"{each['count']:,}",
            f"{each['ks']:.3f}",
            f"{each['ks_threshold']:.3f}",
            f"{each['psi']:.3f}",
            f"{each['psi_threshold']:.3f}",
            Text("drifted", "bold red") if each["drifted"] else "",
        )
    return table


def alerts_table(alerts: Sequence[dict[str, Any]]) -> Table:
    """Alerts, the newest first."""
    table = _table("opened", "severity", "rule", "what", "resolved")
    for each in alerts:
        style = "red" if each["severity"] == "critical" else "yellow"
        table.add_row(
            _time(each["opened_at_ms"]),
            Text(each["severity"], style),
            each["rule"],
            each["message"],
            _time(each["resolved_at_ms"]),
        )
    return table


def rollouts_table(rollouts: Sequence[dict[str, Any]]) -> Table:
    """Rollouts, the newest first."""
    table = _table("rollout", "candidate", "phase", "devices", "created", "why")
    for each in rollouts:
        table.add_row(
            each["id"],
            _label(each["candidate"]),
            _phase(each["phase"]),
            f"{each['devices_updated']} of {each['devices_total']}",
            _time(each["created_at_ms"]),
            each["reason"],
        )
    return table


def status_view(rollout: dict[str, Any]) -> Group:
    """One rollout: where it is and why, its devices, and the verdict in words."""
    baseline = rollout["baseline"]
    head = Text.assemble(
        (rollout["id"], "bold"),
        f"  {_label(baseline) if baseline else 'nothing in common'} → {_label(rollout['candidate'])}  ",
        _phase(rollout["phase"]),
        f"\n{rollout['meaning']}\n{rollout['reason']}",
    )
    parts: list[RenderableType] = [head, _devices_of(rollout)]
    if rollout["verdict"] is not None:
        parts += [_figures(rollout["verdict"]), _words(rollout["verdict"])]
    if rollout["deadline_at_ms"] is not None:
        parts.append(Text(f"Deadline of this stage: {_time(rollout['deadline_at_ms'])}", "dim"))
    return Group(*parts)


def _devices_of(rollout: dict[str, Any]) -> Table:
    table = _table("device", "site", "part", "status", "detail")
    for each in rollout["devices"]:
        part = "canary" if each["canary"] else "moved" if each["moved"] else "not moved"
        status = Text(each["status"], _STATUS_STYLES.get(each["status"], ""))
        table.add_row(each["name"], each["site"], part, status, each["detail"])
    return table


def _figures(verdict: dict[str, Any]) -> Table:
    table = _table("metric", "canaries", "others", "e (worse)", "abort at", "e (no worse)", "promote at")
    for each in verdict["figures"]:
        table.add_row(
            each["metric"],
            _rate(each["canary_bad"], each["canary_n"]),
            _rate(each["baseline_bad"], each["baseline_n"]),
            *(
                _power(each[question][figure])
                for question in ("worse", "no_worse")
                for figure in ("log10_e", "log10_threshold")
            ),
        )
    return table


def _words(verdict: dict[str, Any]) -> Text:
    text = Text("Verdict: ").append(verdict["decision"], "bold")
    for reason in verdict["reasons"]:
        text.append(f"\n  {reason}")
    for missing in verdict["missing"]:
        text.append(f"\n  Waits for {missing}", "yellow")
    return text


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _phase(phase: str) -> Text:
    return Text(phase, _PHASE_STYLES.get(phase, ""))


def _label(bundle: dict[str, Any]) -> str:
    if bundle["name"] is None:
        return f"unknown {bundle['digest'][:12]}"
    return f"{bundle['name']} {bundle['version']}"


def _time(at_ms: int | None) -> str:
    return iso(at_ms)[:19].replace("T", " ") if at_ms is not None else ""


def _rate(bad: int, n: int) -> str:
    return f"{bad:,} of {n:,} ({bad / n:.1%})" if n else "none"


def _power(log10: float) -> str:
    return f"{10**log10:.3g}" if -3 < log10 < 6 else f"10^{log10:.0f}"
