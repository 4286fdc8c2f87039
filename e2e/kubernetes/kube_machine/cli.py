"""The command `kube`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time

from kube_machine.errors import Failed
from kube_machine.layout import COMPONENTS, build, default_name
from kube_machine.machine import Machine


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kube",
        description="A real Kubernetes of several nodes on this computer, for tests. "
        "MILLRACE_KUBE_NAME names it (default: millrace); clusters of different names know nothing of each other.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it; prints the kubeconfig's path")
    up.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default 3)")
    up.add_argument("--zones", type=int, default=None, metavar="Z", help="in how many zones, in turn (default 3)")
    commands.add_parser("down", help="end and remove it, whatever state it is in")
    commands.add_parser("build", help="build the executables only; prints their folder")
    commands.add_parser("env", help='print lines for a shell: eval "$(kube env)"')
    commands.add_parser("status", help="what runs")
    commands.add_parser("logs", help="where the logs are")
    load = commands.add_parser("load", help="bring image archives onto all nodes")
    load.add_argument("archives", nargs="+", metavar="TAR")

    node = commands.add_parser("node", help="faults of nodes; more and fewer of them")
    deeds = node.add_subparsers(dest="deed", required=True, metavar="DEED")
    for deed, text in {
        "crash": "end all its processes at once",
        "start": "bring a crashed one back with its disk",
        "freeze": "let all its processes stand still",
        "thaw": "let them go on",
        "cut": "take its network link down",
        "join": "bring it up",
        "remove": "crash it for good and delete it from the cluster",
    }.items():
        deeds.add_parser(deed, help=text).add_argument("node")
    deeds.add_parser("add", help="one more; prints its name").add_argument("--zone", help="in this zone")

    component = commands.add_parser("component", help="faults of the control plane")
    component.add_argument("deed", choices=["stop", "start", "freeze", "thaw"])
    component.add_argument("component", choices=COMPONENTS)
    return parser.parse_args()


def _up(machine: Machine, nodes: int, zones: int | None) -> None:
    began = time.monotonic()
    print(machine.up(nodes, min(nodes, 3) if zones is None else zones))
    took = time.monotonic() - began
    count = f"{nodes} node{'s' * (nodes != 1)}"
    print(f"kube: {count} after {took:.1f} s; now {machine.layout.env_command()}", file=sys.stderr)


def _node(machine: Machine, arguments: argparse.Namespace) -> None:
    if arguments.deed == "add":
        print(machine.add_node(arguments.zone))
    elif arguments.deed == "remove":
        machine.remove_node(arguments.node)
    else:
        {
            "crash": machine.crash,
            "start": machine.start,
            "freeze": machine.freeze,
            "thaw": machine.thaw,
            "cut": machine.cut,
            "join": machine.join,
        }[arguments.deed](arguments.node)


def _component(machine: Machine, arguments: argparse.Namespace) -> None:
    {
        "stop": machine.stop_component,
        "start": machine.start_component,
        "freeze": machine.freeze_component,
        "thaw": machine.thaw_component,
    }[arguments.deed](arguments.component)


def _do(arguments: argparse.Namespace) -> None:
    if arguments.command == "build":
        print(build())
        return
    machine = Machine(default_name())
    match arguments.command:
        case "up":
            _up(machine, arguments.nodes, arguments.zones)
        case "down":
            machine.down()
        case "env":
            executables = machine.executables()
            print(f"export KUBECONFIG={shlex.quote(str(machine.kubeconfig))}")
            print(f'export PATH={shlex.quote(str(executables))}:"$PATH"')
        case "status":
            for part, state in machine.status().items():
                print(f"{part}: {state}")
        case "logs":
            machine.api()
            print(machine.layout.log)
        case "load":
            machine.load(*arguments.archives)
        case "node":
            _node(machine, arguments)
        case "component":
            _component(machine, arguments)


def main() -> int:
    """The command line; gives the exit code."""
    arguments = _arguments()
    # An `up` that is told to end takes down what it began.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _do(arguments)
    except Failed as failed:
        print(f"kube: {failed}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"kube: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
